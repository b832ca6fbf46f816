// Package compacted reads a topic to its end and follows it.
//
// A [Reader] reads a topic once, to the end that it had when the reader was opened (ReadAll), or as part of a
// [Follower]. A Follower reads a compacted topic and follows it. It starts again from the beginning after an error,
// after the topic was created again, and after it lost records. internal/settings and internal/apikey build their
// memory with it. An [Index] holds the [Version] of the newest record of each key.
//
// Follower.Run runs in the caller's goroutine. While a reader reads, it runs two more, for the lag and for
// Hooks.Beside, and waits for both before it opens the next reader.
//
// What is not obvious:
//   - Brokers do not report offsets without records (removed by compaction or retention, aborted, control). So a reader
//     that receives no records looks up where the next one is, and moves its position over the gap.
//   - The end of a partition is the last stable offset if the client reads committed records only. An open transaction
//     holds it back, although later records exist and were acknowledged.
//   - A topic's name does not identify it. Offsets and versions are valid only for the same topic id.
//
// The package does not know users, Redis or the format of records.
package compacted

// Package compacted reads a topic to its end and follows it.
//
// A [Reader] reads what a topic holds: once, to the end that it had when the reader was opened (ReadAll), or as part of
// a [Follower]. A Follower reads a compacted topic again and again from its start: after an error, after the topic was
// created again, after it lost records. It is what internal/settings and internal/apikey keep their memory true by. An
// [Index] knows for each key which record is the newest one ([Version]).
//
// Follower.Run runs in the caller's goroutine. For as long as one reader reads it starts two more, for the lag and for
// Hooks.Beside, and waits for both before it opens the next reader.
//
// What is not obvious:
//   - Brokers do not report offsets without records (removed by compaction or retention, aborted, control). So a reader
//     that waits for records in vain asks where the next one is, and moves its position over the gap.
//   - The end of a partition is the last stable offset if the client reads committed records only. An open transaction
//     holds it back, although later records exist and were acknowledged.
//   - A topic's name says nothing of its identity. Offsets and versions count only for the same topic id.
//
// The package knows no user, no Redis and no format of a record.
package compacted

package compacted

import (
	"fmt"
	"strconv"
	"strings"

	"github.com/twmb/franz-go/pkg/kgo"
)

// Version is the place of a record in its topic. Of two records of one key the one with the newer version counts. The
// zero Version, of a key that was never written, is older than any other.
type Version struct {
	Partition int32
	Offset    int64 // of the record plus one, so that zero means none
	Time      int64 // the record's timestamp in Unix milliseconds
}

// VersionOf returns the version of a record.
func VersionOf(r *kgo.Record) Version {
	return Version{Partition: r.Partition, Offset: r.Offset + 1, Time: r.Timestamp.UnixMilli()}
}

// Newer reports whether v replaces o. A key normally stays in one partition, where the offset decides. Writers with
// another partitioner, and partitions added later, can put it into a second one: between two partitions only time can
// decide. The Lua script of internal/settings does the same.
func (v Version) Newer(o Version) bool {
	switch {
	case o.Offset == 0:
		return v.Offset > 0
	case v.Partition == o.Partition || v.Offset == 0:
		return v.Offset > o.Offset
	case v.Time != o.Time:
		return v.Time > o.Time
	}
	return v.Partition > o.Partition
}

// Is reports whether both are versions of the same record. The time does not count: a topic may set its own
// (LogAppendTime).
func (v Version) Is(o Version) bool { return v.Partition == o.Partition && v.Offset == o.Offset }

// String returns partition/offset/time.
func (v Version) String() string {
	b := strconv.AppendInt(make([]byte, 0, 48), int64(v.Partition), 10)
	b = strconv.AppendInt(append(b, '/'), v.Offset, 10)
	return string(strconv.AppendInt(append(b, '/'), v.Time, 10))
}

// ParseVersion is the inverse of String.
func ParseVersion(s string) (Version, error) {
	p, rest, _ := strings.Cut(s, "/")
	o, t, _ := strings.Cut(rest, "/")
	partition, err1 := strconv.ParseInt(p, 10, 32)
	offset, err2 := strconv.ParseInt(o, 10, 64)
	ms, err3 := strconv.ParseInt(t, 10, 64)
	if err1 != nil || err2 != nil || err3 != nil {
		return Version{}, fmt.Errorf("version %.64q is not partition/offset/time", s)
	}
	return Version{Partition: int32(partition), Offset: offset, Time: ms}, nil
}

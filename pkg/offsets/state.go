package offsets

import (
	"encoding/base64"
	"encoding/binary"
	"math"
	"strings"
)

// A state is the version followed by base64 of a sequence of varints: the base, then two for each run. The first is the
// distance from the end of the previous run (from the base for the first run), the second is the run's length.
const version = "1:"

// encoding has no padding and rejects stray bits, so that each list of runs has exactly one text.
var encoding = base64.RawStdEncoding.Strict()

// format returns a state of at most limit bytes, or "" if no run fits.
func format(base int64, list []run, limit int) string {
	room := (limit - len(version)) * 3 / 4 // bytes before base64
	if len(list) == 0 || room <= 0 {
		return ""
	}
	out := make([]byte, 0, min(room, 4*len(list))+2*binary.MaxVarintLen64)
	out = binary.AppendUvarint(out, uint64(base))
	empty := len(out)
	last := base
	for _, r := range list {
		kept := len(out)
		out = binary.AppendUvarint(out, uint64(r.lo-last))
		out = binary.AppendUvarint(out, uint64(r.hi-r.lo))
		if len(out) > room {
			out = out[:kept]
			break
		}
		last = r.hi
	}
	if len(out) == empty {
		return ""
	}
	return version + encoding.EncodeToString(out)
}

// parse returns the runs of a state. It returns nil if the state is damaged or belongs to another base. The records are
// then processed again, and none is lost.
func parse(base int64, state string) []run {
	state, _, _ = strings.Cut(state, ";")
	text, ok := strings.CutPrefix(state, version)
	if !ok || strings.ContainsAny(text, "\r\n") { // the decoder would skip them
		return nil
	}
	data, err := encoding.DecodeString(text)
	if err != nil {
		return nil
	}
	// step reads a varint and adds it to last. It must be at least 1 and must not overflow last.
	last := int64(0)
	step := func() bool {
		v, n := binary.Uvarint(data)
		if n <= 0 || v == 0 || v > uint64(math.MaxInt64-last) {
			return false
		}
		data, last = data[n:], last+int64(v)
		return true
	}
	v, n := binary.Uvarint(data)
	if n <= 0 || v != uint64(base) {
		return nil
	}
	data, last = data[n:], base
	var list []run
	for len(data) > 0 {
		if !step() {
			return nil
		}
		lo := last
		if !step() {
			return nil
		}
		list = append(list, run{lo, last})
	}
	return list
}

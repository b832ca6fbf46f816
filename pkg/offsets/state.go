package offsets

import (
	"encoding/base64"
	"encoding/binary"
	"math"
	"strings"
)

// The text of a state is the version, then in base64 a row of varints: the base,
// and for each run how far it starts above the end of the one before (of the
// base for the first) and how long it is.
const version = "1:"

// encoding has no padding and refuses stray bits, so a text has one meaning.
var encoding = base64.RawStdEncoding.Strict()

// format returns the state of at most limit bytes, "" if no run fits.
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

// parse returns the runs of a state that goes with base, nil if it does not or
// is damaged: then the offsets are handled again, which loses nothing.
func parse(base int64, state string) []run {
	state, _, _ = strings.Cut(state, ";")
	text, ok := strings.CutPrefix(state, version)
	if !ok || strings.ContainsAny(text, "\r\n") { // which the decoder would skip
		return nil
	}
	data, err := encoding.DecodeString(text)
	if err != nil {
		return nil
	}
	// step reads a varint from 1 to what keeps last within int64.
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

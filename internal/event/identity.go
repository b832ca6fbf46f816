package event

import (
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"math/big"
	"math/bits"
	"strconv"
	"strings"

	"github.com/smshooks/smshooks/internal/topics"
)

// HeaderGatewayID is the header in which the gateway may name the event of a source record. An event that is copied to
// another cluster, where its topic id and offset differ, keeps that id.
const HeaderGatewayID = "webhook-id"

// maxGatewayID is the length of the longest id that the gateway may set, in characters.
const maxGatewayID = 128

// derivedLength is the number of base62 characters that hold 128 bits.
const derivedLength = 22

// derivedPrefix marks the ids that are derived from a record's position.
const derivedPrefix = "evt_"

// Namespace distinguishes the ids of one topic from those of all others. It is the topic's id, which Kafka makes
// unique: a topic that was deleted and created again, or one on another cluster, is another namespace. It is text, so
// that the topic's name can replace the id if the broker does not support topic ids.
type Namespace string

// NamespaceOf returns the namespace of a topic. A broker that knows no topic ids reports a zero id; the topic's name
// and epoch, a text chosen by the operator, then take its place.
func NamespaceOf(id [16]byte, topic, epoch string) Namespace {
	switch {
	case id != [16]byte{}:
		return Namespace(id[:])
	case epoch != "":
		return Namespace(topic + "/" + epoch) // no topic's name has a slash
	}
	return Namespace(topic)
}

// derive returns evt_ and the first 128 bits of SHA-256 over the position in base62. n is the number of a batch; a
// negative one stands for the record itself.
func derive(space Namespace, partition int32, offset int64, n int32) string {
	sum := positionSum(space, partition, offset, n)
	var text [len(derivedPrefix) + derivedLength]byte
	copy(text[:], derivedPrefix)
	base62(text[len(derivedPrefix):], binary.BigEndian.Uint64(sum[:]), binary.BigEndian.Uint64(sum[8:]))
	return string(text[:])
}

// positionSum returns what derive writes in base62.
func positionSum(space Namespace, partition int32, offset int64, n int32) [sha256.Size]byte {
	var room [64]byte
	b := append(room[:0], space...)
	b = binary.BigEndian.AppendUint32(b, uint32(partition))
	b = binary.BigEndian.AppendUint64(b, uint64(offset))
	if n >= 0 {
		b = binary.BigEndian.AppendUint32(b, uint32(n))
	}
	return sha256.Sum256(b)
}

// base62 fills text with the number hi·2^64 + lo, padded with zeros on the left.
func base62(text []byte, hi, lo uint64) {
	const (
		digits   = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
		group    = 10                      // digits that are taken off at a time
		groupMax = 839_299_365_868_340_224 // 62^10, the largest power that fits into 64 bits
	)
	for end := len(text); end > 0; {
		var rest uint64
		hi, rest = hi/groupMax, hi%groupMax
		lo, rest = bits.Div64(rest, lo, groupMax)
		for range min(group, end) {
			end--
			text[end] = digits[rest%62]
			rest /= 62
		}
	}
}

// Identity returns the event's id, which names it for ever: the one it came with (the gateway's, or that of the
// record which was stored earlier), else the one derived from its position.
func (e *Event) Identity() string {
	if e.ID == "" {
		e.ID = derive(e.Namespace, e.Partition, e.Offset, -1)
	}
	return e.ID
}

// BatchIdentity returns the id of the nth batch of revocations whose first record is e.
func (e *Event) BatchIdentity(n int) string {
	return derive(e.Namespace, e.Partition, e.Offset, int32(n))
}

// SourcePosition returns the position of the event's source record: <topic>/<partition>/<offset>. It is for operators;
// customers see only the id.
func (e *Event) SourcePosition() string {
	if e.Origin == "" && e.Class != topics.Source {
		e.Origin = OriginOf(e.ID) // stored by a version that wrote no smshooks-origin
	}
	if e.Origin == "" {
		b := make([]byte, 0, len(e.Topic)+24)
		b = append(b, e.Topic...)
		b = append(b, '/')
		b = strconv.AppendInt(b, int64(e.Partition), 10)
		b = append(b, '/')
		b = strconv.AppendInt(b, e.Offset, 10)
		e.Origin = string(b)
	}
	return e.Origin
}

// Place is the position of a source record. Offsets compare within one partition of one topic.
type Place struct {
	Topic     Namespace
	Partition int32
	Offset    int64
}

// Source returns the place of the event's source record; false if it is not known, because the event
// was stored by a version that wrote no smshooks-topic-id.
func (e *Event) Source() (p Place, ok bool) {
	if e.Class == topics.Source {
		return Place{e.Namespace, e.Partition, e.Offset}, true
	}
	_, p.Partition, ok = ParseOrigin(e.Origin)
	if p.Topic = e.SourceTopic; !ok || p.Topic == "" {
		return p, false
	}
	p.Offset, _ = strconv.ParseInt(e.Origin[strings.LastIndexByte(e.Origin, '/')+1:], 10, 64)
	return p, true
}

// maxMessageID is the longest message id, in bytes, that is part of a key unchanged. A longer one is replaced by '#'
// and its SHA-256 in hex, 65 bytes: more than maxMessageID, so no unchanged id looks like a hash.
const maxMessageID = 64

// AppendMessageKey appends the key under which Redis knows a message of a user: <user id>:<message id>. The id is as
// in the record: any text of any length.
func AppendMessageKey(dst []byte, userID int64, id string) []byte {
	dst = append(strconv.AppendInt(dst, userID, 10), ':')
	if len(id) <= maxMessageID {
		return append(dst, id...)
	}
	sum := sha256.Sum256([]byte(id))
	return hex.AppendEncode(append(dst, '#'), sum[:])
}

// SetGatewayID sets the id that the gateway gave a source record. It returns false and ignores an id that does not fit.
func (e *Event) SetGatewayID(id []byte) bool {
	if len(id) == 0 || len(id) > maxGatewayID {
		return false
	}
	for _, c := range id {
		switch {
		case 'a' <= c && c <= 'z', 'A' <= c && c <= 'Z', '0' <= c && c <= '9', c == '-', c == '_', c == ':', c == '/':
		default:
			return false
		}
	}
	e.ID, e.named = string(id), true
	return true
}

// Derived reports whether the event's id is derived from the position of a source record: a copy of the record in
// another topic has another id.
func (e *Event) Derived() bool { return e.Class == topics.Source && !e.named }

// OriginOf returns the position in an id of earlier versions, which was the position itself, followed by its number
// for a batch: <topic>/<partition>/<offset>[/<n>]. It returns "" for any other id.
func OriginOf(id string) string {
	if isOrigin(id) {
		return id
	}
	if cut := strings.LastIndexByte(id, '/'); cut > 0 && isNumber(id[cut+1:], 31) && isOrigin(id[:cut]) {
		return id[:cut]
	}
	return ""
}

func isOrigin(text string) bool {
	_, _, ok := ParseOrigin(text)
	return ok
}

// ParseOrigin reads the topic and the partition of a position.
func ParseOrigin(origin string) (topic string, partition int32, ok bool) {
	topic, partition, _, ok = ParsePosition(origin)
	return topic, partition, ok
}

// ParsePosition reads a position: <topic>/<partition>/<offset>.
func ParsePosition(text string) (topic string, partition int32, offset int64, ok bool) {
	topic, numbers, _ := strings.Cut(text, "/")
	first, second, _ := strings.Cut(numbers, "/")
	p, err1 := strconv.ParseUint(first, 10, 31)
	o, err2 := strconv.ParseUint(second, 10, 63)
	if topic == "" || err1 != nil || err2 != nil {
		return "", 0, 0, false
	}
	return topic, int32(p), int64(o), true
}

func isNumber(text string, bits int) bool {
	_, err := strconv.ParseUint(text, 10, bits)
	return err == nil
}

// Derivation finds the record of a derived id: it computes the ids of offsets, which costs less than reading records.
type Derivation struct{ sum [16]byte }

// ParseDerived returns the Derivation of an id; false if the id is not a derived one.
func ParseDerived(id string) (d Derivation, ok bool) {
	text, ok := strings.CutPrefix(id, derivedPrefix)
	if !ok || len(text) != derivedLength || strings.ContainsAny(text, "+-") {
		return d, false
	}
	n, ok := new(big.Int).SetString(swapCase(text), 62)
	if !ok || n.BitLen() > 8*len(d.sum) {
		return d, false
	}
	n.FillBytes(d.sum[:])
	return d, true
}

// swapCase converts between the digits of an id, upper case first, and those of math/big, lower case first.
func swapCase(text string) string {
	return strings.Map(func(c rune) rune {
		switch {
		case 'a' <= c && c <= 'z':
			return c - 'a' + 'A'
		case 'A' <= c && c <= 'Z':
			return c - 'A' + 'a'
		}
		return c
	}, text)
}

// Is reports whether the id is that of a record, or of one of the first batches of revocations that begin with it:
// those with numbers below batches, 0 for other kinds.
func (d *Derivation) Is(space Namespace, partition int32, offset int64, batches int32) bool {
	for n := int32(-1); n < batches; n++ { // -1 is the record itself: an invalid revocation is in no batch
		if sum := positionSum(space, partition, offset, n); [16]byte(sum[:16]) == d.sum {
			return true
		}
	}
	return false
}

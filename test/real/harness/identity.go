package harness

import (
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"math/big"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"
)

// topicIDs are the ids of the topics that Ensure saw last, by name. Tests use names that no other test does.
var topicIDs sync.Map

// NoteTopics notes the ids of topics, which Identity needs. Ensure does it by itself; a test that deletes topics and
// creates them again otherwise calls it.
func NoteTopics(t testing.TB, brokers string, topics ...string) {
	t.Helper()
	details, err := kadm.NewClient(Client(t, brokers)).ListTopics(within(t, 20*time.Second), topics...)
	if err != nil {
		t.Fatalf("ids of topics: %v", err)
	}
	for name, d := range details {
		topicIDs.Store(name, [16]byte(d.ID))
	}
}

// noteEnsured notes the topics of which topics ensure printed a line.
func noteEnsured(t testing.TB, brokers, printed string) {
	t.Helper()
	var topics []string
	for line := range strings.Lines(printed) {
		if topic, _, ok := strings.Cut(line, ": "); ok {
			topics = append(topics, topic)
		}
	}
	NoteTopics(t, brokers, topics...)
}

// Identity is the id that the contract derives for the event of a record.
func Identity(r *kgo.Record) string { return derive(r) }

// BatchIdentity is the id of the nth batch of revocations that begins with a record.
func BatchIdentity(r *kgo.Record, n int32) string { return derive(r, n) }

// Position is where a record is, as smshooks-origin has it.
func Position(r *kgo.Record) string { return fmt.Sprintf("%s/%d/%d", r.Topic, r.Partition, r.Offset) }

func derive(r *kgo.Record, n ...int32) string {
	id, ok := topicIDs.Load(r.Topic)
	if !ok {
		panic("the id of topic " + r.Topic + " is not known: call harness.NoteTopics")
	}
	topic := id.([16]byte)
	b := append([]byte(nil), topic[:]...)
	b = binary.BigEndian.AppendUint32(b, uint32(r.Partition))
	b = binary.BigEndian.AppendUint64(b, uint64(r.Offset))
	for _, one := range n {
		b = binary.BigEndian.AppendUint32(b, uint32(one))
	}
	sum := sha256.Sum256(b)
	const digits = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
	number, base, digit := new(big.Int).SetBytes(sum[:16]), big.NewInt(int64(len(digits))), new(big.Int)
	var text [22]byte
	for i := len(text) - 1; i >= 0; i-- {
		number.DivMod(number, base, digit)
		text[i] = digits[digit.Int64()]
	}
	return "evt_" + string(text[:])
}

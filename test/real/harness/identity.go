package harness

import (
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"math/big"
	"strings"
	"sync"
	"testing"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"
)

// topicIDs holds the latest ids of topics that Ensure has seen, by name. Each test uses names of its own.
var topicIDs sync.Map

// NoteTopics records the ids of topics for Identity. Ensure calls it; so does a test that recreates topics in another
// way.
func NoteTopics(t testing.TB, brokers string, topics ...string) {
	t.Helper()
	details, err := kadm.NewClient(Client(t, brokers)).ListTopics(within(t, Patience), topics...)
	if err != nil {
		t.Fatalf("ids of topics: %v", err)
	}
	for name, d := range details {
		topicIDs.Store(name, [16]byte(d.ID))
	}
}

// noteEnsured records the ids of the topics in the output of topics ensure.
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

// Identity returns the id that the contract derives for the event of a record.
func Identity(r *kgo.Record) string { return derive(r) }

// BatchIdentity returns the id of the nth batch of revocations that begins with a record.
func BatchIdentity(r *kgo.Record, n int32) string { return derive(r, n) }

// Position returns the position of a record in the form of smshooks-origin.
func Position(r *kgo.Record) string { return fmt.Sprintf("%s/%d/%d", r.Topic, r.Partition, r.Offset) }

func derive(r *kgo.Record, n ...int32) string {
	id, ok := topicIDs.Load(r.Topic)
	if !ok {
		panic("the id of topic " + r.Topic + " is unknown: call harness.NoteTopics")
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

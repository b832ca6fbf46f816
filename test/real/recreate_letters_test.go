package real_test

import (
	"slices"
	"strings"
	"testing"

	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/smshooks/smshooks/test/real/harness"
)

// TestDeadLettersOfARecreatedTopic deletes the dead letter topic before the first dead letter, and creates it again.
// Every event that is settled as dead must be in the new topic: the one that waited for it, and those after the service
// has noticed that it is another topic.
func TestDeadLettersOfARecreatedTopic(t *testing.T) {
	t.Parallel()
	e := newEnv(t)
	p := e.serve(t)
	invalid := func(text string) { e.emit(t, &kgo.Record{Topic: e.topics.DLR, Key: []byte("7"), Value: []byte(text)}) }
	deleteTopics(t, e, e.topics.DeadLetter)
	invalid("first")
	harness.Eventually(t, noticed, func() bool { return strings.Contains(readyz(p), "topic "+e.topics.DeadLetter+" refuses") },
		"the record waits")
	e.ensure(t)
	p.WaitLog(t, noticed, "switched to the topics that were created again")
	e.dead(t, 7, 1, harness.Patience)
	for n, text := range []string{"second", "third"} {
		invalid(text)
		p.WaitMetric(t, harness.Patience, harness.Exactly(float64(n+2)), "smshooks_settled_total", "kind", "dlr", "fate", "dead")
	}
	var got []string
	for _, r := range harness.Consume(t, e.kafka.Addr, e.topics.DeadLetter) {
		got = append(got, string(r.Value))
	}
	slices.Sort(got)
	if want := []string{"first", "second", "third"}; !slices.Equal(got, want) {
		t.Errorf("%d records are settled as dead, the topic has %q", len(want), got)
	}
}

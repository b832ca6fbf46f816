package kafka

import (
	"context"
	"errors"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"
	"go.uber.org/zap"
	"go.uber.org/zap/zaptest/observer"

	"github.com/smshooks/smshooks/internal/topics"
)

// TestWatcherRecreated deletes a topic and creates it again, and checks that it is reported until the clients use the
// new one.
func TestWatcherRecreated(t *testing.T) {
	cluster := newCluster(t)
	cl, err := kgo.NewClient(kgo.SeedBrokers(cluster.ListenAddrs()...))
	if err != nil {
		t.Fatal(err)
	}
	defer cl.Close()
	admin := kadm.NewClient(cl)
	create := func(topics ...string) {
		t.Helper()
		if _, err := admin.CreateTopics(t.Context(), 1, 1, nil, topics...); err != nil {
			t.Fatal(err)
		}
	}
	create("a", "b")
	core, logs := observer.New(zap.WarnLevel)
	w := NewWatcher(cl, map[string]Rights{"a": Read, "b": Write}, zap.New(core))
	var adopted []string
	refusal := errors.New("not yet")
	before := 0
	w.OnRecreated(func(context.Context, []string) error { before++; return nil })
	w.OnRecreated(func(_ context.Context, topics []string) error {
		adopted = append(adopted, topics...)
		return refusal
	})
	problem := func(want string) {
		t.Helper()
		w.look(t.Context())
		got := ""
		if err := w.Problem(); err != nil {
			got = err.Error()
		}
		if want == "" && got != "" || !strings.Contains(got, want) {
			t.Errorf("problem is %q, want %q", got, want)
		}
	}
	problem("")
	if _, err := admin.DeleteTopics(t.Context(), "b"); err != nil {
		t.Fatal(err)
	}
	problem("topic b does not exist")
	if adopted != nil {
		t.Errorf("adopted %v, which does not exist", adopted)
	}
	create("b")
	problem("topic b was deleted and created again")
	problem("topic b was deleted and created again")
	refusal = nil
	problem("")
	if !slices.Equal(adopted, []string{"b", "b", "b"}) {
		t.Errorf("adopted %v, want b again after two failures", adopted)
	}
	problem("")
	if len(adopted) != 3 {
		t.Errorf("adopted %v, want no b", adopted)
	}
	if before != 1 {
		t.Errorf("a function that has succeeded was called %d times because another one had failed", before)
	}
	if logs.Len() != 2 {
		t.Errorf("%d warnings, want that b was created again, and that it cannot be used yet: %v", logs.Len(), logs.All())
	}
}

// TestWatcherReaders checks that a topic that was created again is reported until its reader reads it, even if all
// functions of OnRecreated have succeeded.
func TestWatcherReaders(t *testing.T) {
	cluster := newCluster(t)
	cl, err := kgo.NewClient(kgo.SeedBrokers(cluster.ListenAddrs()...))
	if err != nil {
		t.Fatal(err)
	}
	defer cl.Close()
	admin := kadm.NewClient(cl)
	create := func() (id [16]byte) {
		t.Helper()
		created, err := admin.CreateTopic(t.Context(), 1, 1, nil, "a")
		if err != nil {
			t.Fatal(err)
		}
		return created.ID
	}
	var reads [16]byte
	w := NewWatcher(cl, map[string]Rights{"a": Read}, zap.NewNop())
	w.Reads("a", func() [16]byte { return reads })
	look := func(step string, inUse bool) {
		t.Helper()
		w.look(t.Context())
		err := w.Problem()
		if inUse && err != nil || !inUse && (err == nil || !strings.Contains(err.Error(), "topic a was deleted and created again")) {
			t.Errorf("%s: problem is %v", step, err)
		}
	}
	first := create()
	look("not read yet", true)
	reads = first
	look("read", true)
	if _, err := admin.DeleteTopics(t.Context(), "a"); err != nil {
		t.Fatal(err)
	}
	second := create()
	look("created again", false)
	look("created again and still not read", false)
	reads = second
	look("read again", true)
}

func TestWatcherRights(t *testing.T) {
	w := NewWatcher(nil, map[string]Rights{"r": Read, "w": Write, "rw": Read | Write}, zap.NewNop())
	topic := func(name string, code int16, operations int32) kmsg.MetadataResponseTopic {
		m := kmsg.NewMetadataResponseTopic()
		m.Topic, m.ErrorCode, m.AuthorizedOperations = &name, code, operations
		return m
	}
	const read, write, unknown = 1 << kmsg.ACLOperationRead, 1 << kmsg.ACLOperationWrite, -1 << 31
	for name, c := range map[string]struct {
		r, w, rw kmsg.MetadataResponseTopic
		want     []string
	}{
		"all":     {topic("r", 0, read), topic("w", 0, write), topic("rw", 0, read|write), nil},
		"unknown": {topic("r", 0, unknown), topic("w", 0, unknown), topic("rw", 0, unknown), nil},
		"none":    {topic("r", 0, 0), topic("w", 0, 0), topic("rw", 0, 0), nil},
		"some": {
			topic("r", 0, write), topic("w", 0, read), topic("rw", 0, read),
			[]string{"topic r: this user lacks the Read right", "topic rw: this user lacks the Write right", "topic w: this user lacks the Write right"},
		},
		"hidden": {
			topic("r", 0, read), topic("w", 0, write), topic("rw", kerr.TopicAuthorizationFailed.Code, unknown),
			[]string{"topic rw: this user lacks the Read and Write right"},
		},
	} {
		t.Run(name, func(t *testing.T) {
			seen := map[string]kmsg.MetadataResponseTopic{"r": c.r, "w": c.w, "rw": c.rw}
			if got := w.judge(seen, nil); !slices.Equal(got, c.want) {
				t.Errorf("%q, want %q", got, c.want)
			}
		})
	}
}

func TestRightsOfRoles(t *testing.T) {
	p := topics.New(topics.Settings{
		DLR: "d", Click: "c", Inbound: "i", Revocation: "r", Config: "config", Keys: "keys", DeadLetter: "dead", Events: "events", Releases: "releases",
		Schedule: []time.Duration{time.Hour}, Tiers: []time.Duration{time.Second, time.Minute}, DrainSchedule: []time.Duration{2 * time.Hour},
	})
	all, api, none := NeededRights(p, true, true), NeededRights(p, false, true), NeededRights(p, false, false)
	for _, c := range []struct {
		topic          string
		all, api, none Rights
	}{
		{"d", Read, Read, 0},
		{"d-retry-1h", Read | Write, 0, 0},
		{"d-retry-2h", Read, 0, 0},
		{"d-overflow-1s", Read | Write, Write, 0},
		{"r-overflow-1m", Read | Write, Read, 0},
		{"config", Read | Write, Read | Write, Read},
		{"keys", Read, Read, Read},
		{"dead", Read | Write, Read, 0},
	} {
		if all[c.topic] != c.all || api[c.topic] != c.api || none[c.topic] != c.none {
			t.Errorf("%s: %v, %v, %v; want %v, %v, %v", c.topic, all[c.topic], api[c.topic], none[c.topic], c.all, c.api, c.none)
		}
	}
}

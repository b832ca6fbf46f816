package kafka

import (
	"errors"
	"fmt"
	"testing"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/smshooks/smshooks/internal/topics"
)

func TestRightsInWords(t *testing.T) {
	for want, names := range map[string][]string{
		"no": nil, "Read": {"Read"}, "Read and Write": {"Write", "Read"},
		"Create, Describe and AlterConfigs": {"Create", "Describe", "AlterConfigs"}, "DescribeConfigs": {"DescribeConfigs"},
	} {
		if got := rightsNamed(names).String(); got != want {
			t.Errorf("%v: got %q, want %q", names, got, want)
		}
	}
	// Each right in the table of commands has a name here.
	plan := topics.New(topics.Settings{DLR: "d", Click: "c", Inbound: "i", Revocation: "r", Config: "config", Keys: "keys",
		DeadLetter: "dead", Events: "events", Releases: "releases"})
	for _, command := range plan.Rights("g") {
		for _, right := range command.Rights {
			for _, operation := range right.Operations {
				if rightsNamed([]string{operation}) == 0 {
					t.Errorf("%s needs %s, which has no name", command.Command, operation)
				}
			}
		}
	}
}

// answer makes a cluster answer metadata requests with an error and rights for each topic.
func answer(cluster *kfake.Cluster, code int16, operations int32) {
	cluster.ControlKey(int16(kmsg.Metadata), func(r kmsg.Request) (kmsg.Response, error, bool) {
		cluster.KeepControl()
		req := r.(*kmsg.MetadataRequest)
		resp := req.ResponseKind().(*kmsg.MetadataResponse)
		for _, t := range req.Topics {
			topic := kmsg.NewMetadataResponseTopic()
			topic.Topic, topic.ErrorCode, topic.AuthorizedOperations = t.Topic, code, operations
			resp.Topics = append(resp.Topics, topic)
		}
		return resp, nil, true
	})
}

func TestNameRights(t *testing.T) {
	plan := topics.New(topics.Settings{DLR: "d", Click: "c", Inbound: "i", Revocation: "r", Config: "config", Keys: "keys",
		DeadLetter: "dead", Events: "events", Releases: "releases"})
	needs := []topics.Right{
		{Resource: "topic", Name: "keys", Operations: []string{"Read", "Write"}},
		{Resource: "topic", Name: "d-overflow-", Prefixed: true, Operations: []string{"Write"}},
	}
	denied := fmt.Errorf("write: %w", &kadm.AuthError{Err: kerr.TopicAuthorizationFailed})
	for name, c := range map[string]struct {
		code       int16
		operations Rights
		err        error
		want       string
	}{
		"one right":      {0, Read, denied, "topic keys: this user lacks the Write right; topic d-overflow-…: this user lacks the Write right"},
		"no right":       {kerr.TopicAuthorizationFailed.Code, 0, denied, "topic keys: this user lacks the Read and Write right; topic d-overflow-…: this user lacks the Write right"},
		"all rights":     {0, Read | Write, denied, ""},
		"unknown rights": {0, -1 << 31, denied, ""},
		"another error":  {0, Read, kerr.UnknownServerError, ""},
	} {
		t.Run(name, func(t *testing.T) {
			cluster := newCluster(t)
			cl, err := kgo.NewClient(kgo.SeedBrokers(cluster.ListenAddrs()...))
			if err != nil {
				t.Fatal(err)
			}
			defer cl.Close()
			answer(cluster, c.code, int32(c.operations))
			got := NameRights(t.Context(), cl, plan, needs, c.err)
			want := c.err.Error()
			if c.want != "" {
				want = c.want + " (" + want + ")"
			}
			if got.Error() != want || !errors.Is(got, errors.Unwrap(c.err)) && errors.Unwrap(c.err) != nil {
				t.Errorf("got %q, want %q", got, want)
			}
		})
	}
	if err := NameRights(t.Context(), nil, plan, needs, nil); err != nil {
		t.Errorf("no error: got %v", err)
	}
}

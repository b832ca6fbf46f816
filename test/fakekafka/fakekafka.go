// Package fakekafka runs Kafka in the process of a test.
package fakekafka

import (
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kgo"
)

// Cluster is a Kafka on loopback.
type Cluster struct {
	*kfake.Cluster
	t testing.TB
}

// New starts a Cluster, with one broker unless opts say otherwise. It stops when t ends.
func New(t testing.TB, opts ...kfake.Opt) *Cluster {
	t.Helper()
	cluster, err := kfake.NewCluster(append([]kfake.Opt{kfake.NumBrokers(1)}, opts...)...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(cluster.Close)
	return &Cluster{cluster, t}
}

// NewClient returns a client whose fetches return soon.
func (c *Cluster) NewClient(extra ...kgo.Opt) (*kgo.Client, error) {
	opts := []kgo.Opt{kgo.SeedBrokers(c.ListenAddrs()...), kgo.FetchMaxWait(100 * time.Millisecond)}
	return kgo.NewClient(append(opts, extra...)...)
}

// Open is NewClient for tests: it fails the test instead of returning an error, and the client is closed when t ends.
func (c *Cluster) Open(extra ...kgo.Opt) *kgo.Client {
	c.t.Helper()
	client, err := c.NewClient(extra...)
	if err != nil {
		c.t.Fatal(err)
	}
	c.t.Cleanup(client.Close)
	return client
}

// CreateCompacted creates a compacted topic of three partitions.
func (c *Cluster) CreateCompacted(topic string) {
	c.t.Helper()
	client, err := c.NewClient()
	if err != nil {
		c.t.Fatal(err)
	}
	defer client.Close()
	compact := map[string]*string{"cleanup.policy": kadm.StringPtr("compact")}
	if _, err := kadm.NewClient(client).CreateTopic(c.t.Context(), 3, 1, compact, topic); err != nil {
		c.t.Fatal(err)
	}
}

package harness

import (
	"context"
	"regexp"
	"strings"
	"testing"
)

// MirrorMaker copies topics to another cluster, and translates the committed offsets of a group.
type MirrorMaker struct{ srv *server }

// StartMirrorMaker starts MirrorMaker 2 with the settings that docs/upgrade.md names. It may take a minute until it has
// copied the first record. It stops when the test ends.
func StartMirrorMaker(t testing.TB, from, to *Broker, topics []string, group string) *MirrorMaker {
	t.Helper()
	s := kafkaSpec()
	s.name = "MirrorMaker"
	s.env = func([]string) map[string]string { return nil }
	s.ready = func(context.Context, string) error { return nil } // it listens nowhere
	s.command = func([]string) []string {
		properties := mirrorProperties(from.Addr, to.Addr, topics, group)
		return []string{"sh", "-c", `printf '%s' "$0" > /tmp/mirror.properties; exec /opt/kafka/bin/connect-mirror-maker.sh /tmp/mirror.properties`, properties}
	}
	return &MirrorMaker{runOwn(t, s)}
}

// Stop stops it.
func (m *MirrorMaker) Stop(t testing.TB) { t.Helper(); m.srv.stop(t) }

// Log returns the end of what it has logged.
func (m *MirrorMaker) Log() string { return m.srv.logs() }

func mirrorProperties(from, to string, topics []string, group string) string {
	patterns := make([]string, len(topics))
	for i, topic := range topics {
		patterns[i] = regexp.QuoteMeta(topic)
	}
	return strings.NewReplacer("{from}", from, "{to}", to, "{topics}", strings.Join(patterns, ","), "{group}", regexp.QuoteMeta(group)).Replace(`
clusters=first,second
first.bootstrap.servers={from}
second.bootstrap.servers={to}
first->second.enabled=true
first->second.topics={topics}
first->second.groups={group}
first->second.consumer.isolation.level=read_committed
replication.policy.class=org.apache.kafka.connect.mirror.IdentityReplicationPolicy
sync.group.offsets.enabled=true
sync.group.offsets.interval.seconds=1
emit.checkpoints.interval.seconds=1
refresh.groups.interval.seconds=1
offset.lag.max=0
sync.topic.configs.enabled=false
sync.topic.acls.enabled=false
emit.heartbeats.enabled=false
replication.factor=1
offset-syncs.topic.replication.factor=1
checkpoints.topic.replication.factor=1
heartbeats.topic.replication.factor=1
config.storage.replication.factor=1
offset.storage.replication.factor=1
status.storage.replication.factor=1
`)
}

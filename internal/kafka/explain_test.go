package kafka

import (
	"maps"
	"strings"
	"testing"
	"time"

	"github.com/smshooks/smshooks/internal/topics"
)

// TestExplain checks that the suggested commands are complete and can be pasted.
func TestExplain(t *testing.T) {
	settings := defaults
	settings.Schedule, settings.Tiers, settings.Replication = []time.Duration{time.Hour}, []time.Duration{time.Minute}, 3
	states := map[string]state{}
	s := survey{topics.New(settings), states}
	for _, topic := range s.All() {
		states[topic] = state{partitions: 12, configs: map[string]string{}}
		for _, setting := range (survey{Plan: s.Plan}).settings(topic) {
			states[topic].configs[setting[0]] = setting[1]
		}
	}
	if problems := s.problems(); len(problems) != 0 {
		t.Fatalf("problems of a correct plan: %v", problems)
	}
	delete(states, "webhook-config")
	states["sms-dlr-retry-1h"] = state{partitions: 4, configs: map[string]string{"cleanup.policy": "delete", "retention.ms": "1000", "retention.bytes": "7"}}
	states["sms-click-retry-1h"] = state{partitions: 13, configs: states["sms-click-retry-1h"].configs}
	for _, sized := range [][2]string{{"sms-inbound", "2097152"}, {"sms-inbound-retry-1h", "2113536"}, {"click-revocation-retry-1h", "1064959"}} {
		configs := maps.Clone(states[sized[0]].configs)
		configs["max.message.bytes"] = sized[1]
		states[sized[0]] = state{partitions: 12, configs: configs}
	}
	states["webhook-keys"] = state{partitions: 1, configs: map[string]string{"cleanup.policy": "delete"}}
	got := map[string]bool{}
	for _, problem := range s.problems() {
		got[problem.Explain(Connection{[]string{"a:1", "b:2"}, []string{"--config=x.yaml", "--kafka.brokers=a:1,b:2"}})] = true
	}
	const (
		split = "\n  why: a group member is assigned the same partition numbers of both; otherwise a user's records are split among members, and limits and order hold only per process"
		full  = "\n  why: a record that is too large cannot be stored, and offsets behind it in its partition are not committed until it is"
		gone  = "\n  why: Kafka would silently delete records that are not due yet"
	)
	for _, want := range []string{
		"topic webhook-config is missing: run `smshooks topics ensure`, or create it" +
			"\n  why: the service reads or writes it, and creates topics only if topics.ensure is true" +
			"\n  type: smshooks topics ensure" +
			"\n    or: kafka-topics.sh --bootstrap-server a:1,b:2 --create --topic webhook-config --partitions 12 --replication-factor 3 --config cleanup.policy=compact --config retention.ms=-1",
		"topic sms-dlr-retry-1h has 4 partitions, but its source sms-dlr has 12: run `smshooks topics ensure`, which adds the missing partitions" + split +
			"\n  type: smshooks topics ensure\n    or: kafka-topics.sh --bootstrap-server a:1,b:2 --alter --topic sms-dlr-retry-1h --partitions 12",
		"topic sms-click-retry-1h has 13 partitions, but its source sms-click has 12: add partitions to sms-click until it has 13, then run `smshooks topics ensure`" + split +
			"; partitions cannot be removed, and adding some to a source moves users to other partitions: see docs/upgrade.md" +
			"\n  type: kafka-topics.sh --bootstrap-server a:1,b:2 --alter --topic sms-click --partitions 13 && smshooks topics ensure",
		"topic sms-dlr-retry-1h has retention.ms=1000 (1s), below its delay + retry.window (1h + 24h = 90000000 ms): run `smshooks topics ensure`, which raises it; otherwise delayed records would be lost" + gone +
			"\n  type: smshooks topics ensure\n    or: kafka-configs.sh --bootstrap-server a:1,b:2 --alter --entity-type topics --entity-name sms-dlr-retry-1h --add-config retention.ms=349200000",
		"topic sms-dlr-retry-1h has retention.bytes=7 instead of -1: run `smshooks topics ensure`, which lifts it; otherwise delayed records would be lost" + gone +
			"\n  type: smshooks topics ensure\n    or: kafka-configs.sh --bootstrap-server a:1,b:2 --alter --entity-type topics --entity-name sms-dlr-retry-1h --add-config retention.bytes=-1",
		"topic sms-inbound-overflow-1m has max.message.bytes=2097152, less than its source sms-inbound needs with headers (2113536): run `smshooks topics ensure`, which raises it" + full +
			"\n  type: smshooks topics ensure\n    or: kafka-configs.sh --bootstrap-server a:1,b:2 --alter --entity-type topics --entity-name sms-inbound-overflow-1m --add-config max.message.bytes=2113536",
		"topic sms-inbound-paused-24h has max.message.bytes=2097152, less than its source sms-inbound needs with headers (2113536): run `smshooks topics ensure`, which raises it" + full +
			"\n  type: smshooks topics ensure\n    or: kafka-configs.sh --bootstrap-server a:1,b:2 --alter --entity-type topics --entity-name sms-inbound-paused-24h --add-config max.message.bytes=2113536",
		"topic sms-inbound-overflow-0s has max.message.bytes=2097152, less than its source sms-inbound needs with headers (2113536): run `smshooks topics ensure`, which raises it" + full +
			"\n  type: smshooks topics ensure\n    or: kafka-configs.sh --bootstrap-server a:1,b:2 --alter --entity-type topics --entity-name sms-inbound-overflow-0s --add-config max.message.bytes=2113536",
		"topic click-revocation-retry-1h has max.message.bytes=1064959, less than its source click-revocation needs with headers (1064960): run `smshooks topics ensure`, which raises it" + full +
			"\n  type: smshooks topics ensure\n    or: kafka-configs.sh --bootstrap-server a:1,b:2 --alter --entity-type topics --entity-name click-revocation-retry-1h --add-config max.message.bytes=2097152",
		"topic webhook-dead-letter has max.message.bytes=2097152, less than its source sms-inbound needs with headers (2113536): run `smshooks topics ensure`, which raises it" + full +
			"\n  type: smshooks topics ensure\n    or: kafka-configs.sh --bootstrap-server a:1,b:2 --alter --entity-type topics --entity-name webhook-dead-letter --add-config max.message.bytes=2113536",
		"topic webhook-keys has cleanup.policy=delete instead of compact: set cleanup.policy=compact (any other policy deletes settings after a while)" +
			"\n  why: any other policy deletes settings after a while; `topics ensure` does not change it, because the topic may belong to another program" +
			"\n  type: kafka-configs.sh --bootstrap-server a:1,b:2 --alter --entity-type topics --entity-name webhook-keys --add-config cleanup.policy=compact",
	} {
		want = strings.ReplaceAll(want, "smshooks topics ensure", "smshooks topics ensure --config=x.yaml --kafka.brokers=a:1,b:2")
		if !got[want] {
			t.Errorf("missing:\n%s", want)
		}
		delete(got, want)
	}
	for text := range got {
		t.Errorf("unexpected:\n%s", text)
	}
	u := Orphaned{"sms-dlr-retry-2h", 3, "retry.drain=2h"}
	if got, want := u.String(), "orphaned delay topic sms-dlr-retry-2h holds 3 records that are not read: add 2h to retry.drain until it is empty"; got != want {
		t.Errorf("got  %s\nwant %s", got, want)
	}
}

// TestRisks checks the warnings about settings with which a failing broker loses records, or which delete them early.
func TestRisks(t *testing.T) {
	safe := map[string]string{"min.insync.replicas": "2", "unclean.leader.election.enable": "false"}
	states := map[string]state{}
	s := survey{topics.New(defaults), states}
	for _, topic := range s.All() {
		states[topic] = state{partitions: 12, replicas: 3, configs: safe}
	}
	if risks := s.risks(); len(risks) != 0 {
		t.Fatalf("risks of safe topics: %v", risks)
	}
	states["sms-dlr"] = state{partitions: 12, replicas: 1, configs: map[string]string{"min.insync.replicas": "1"}}
	states["webhook-config"] = state{partitions: 12, replicas: 1, configs: safe}
	states["webhook-keys"] = state{partitions: 12, replicas: 3, configs: map[string]string{"unclean.leader.election.enable": "true"}}
	keep := func(ms string) state { return state{replicas: 3, configs: map[string]string{"retention.ms": ms}} }
	states["webhook-dead-letter"], states["webhook-events"] = keep("1000"), keep("604799999")
	delete(states, "sms-inbound") // missing is another matter
	var got []string
	for _, r := range s.risks() {
		got = append(got, r.String())
	}
	want := []string{
		"replication factor 1: topics sms-dlr, webhook-config; if that broker is lost, so are their records: use 3 replicas (topics.replication for topics that are created)",
		"min.insync.replicas=1: topic sms-dlr; a record counts as stored when one replica has it: set min.insync.replicas=2 with 3 replicas",
		"unclean.leader.election.enable=true: topic webhook-keys; a replica that lags behind may become leader, and the records that it lacks are lost: set unclean.leader.election.enable=false",
		"retention.ms=1000 (1s), below 30 days: topic webhook-dead-letter; dead letters that are deleted can no longer be replayed: set retention.ms=2592000000",
		"retention.ms=604799999 (167h59m59.999s), below 7 days: topic webhook-events; a program that is down for longer misses endpoint events: set retention.ms=604800000",
	}
	if strings.Join(got, "\n") != strings.Join(want, "\n") {
		t.Errorf("got\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
	states["webhook-dead-letter"], states["webhook-events"] = keep("2592000000"), keep("-1") // enough
	if risks := s.risks(); len(risks) != 3 {
		t.Errorf("warned of enough retention: %v", risks)
	}
}

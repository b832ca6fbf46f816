package faults_test

import (
	"encoding/json"
	"fmt"
	"net/url"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/smshooks/smshooks/test/real/harness"
)

// unclean is a service that reads a topic with two replicas, on the brokers that may be killed.
type unclean struct {
	cluster *harness.Cluster
	topics  harness.Topics
	recv    *harness.Receiver
	adm     *kadm.Client
	next    int64 // message
}

// TestUncleanElection: a replica that lacks records becomes the leader, and the partitions are cut back to what it has,
// under a running instance and while none runs. The records in their place are sent, and a log line names the loss.
func TestUncleanElection(t *testing.T) {
	inTurn(t)
	u := &unclean{cluster: harness.OwnCluster(t), topics: harness.TopicsFor(t), recv: harness.NewReceiver(t)}
	u.adm = kadm.NewClient(harness.Client(t, u.cluster.Addr))
	harness.Ensure(t, u.options(t))
	u.place(t)
	harness.SetWebhook(t, u.cluster.Addr, u.topics.Config, 1, harness.Webhook{DLR: u.recv.URL("/dlr")})
	p := harness.StartReady(t, u.options(t))
	most := pick(200, 5000)
	u.sent(t, u.produce(t, most))

	t.Log("under a running instance")
	leader, follower := u.leader(t)
	u.cluster.Brokers[follower-1].Kill(t)
	u.alone(t, leader)
	u.sent(t, u.produce(t, most)) // these are lost at the brokers, after they were sent
	u.cluster.Brokers[leader-1].Kill(t)
	u.cluster.Brokers[follower-1].Start(t)
	u.led(t, follower)
	u.sent(t, u.produce(t, most/2))
	p.WaitLog(t, patience, "the broker has lost records")
	u.cluster.Brokers[leader-1].Start(t)
	u.sent(t, u.produce(t, most))

	t.Log("while no instance runs")
	u.together(t)
	leader, follower = u.leader(t)
	u.cluster.Brokers[follower-1].Kill(t)
	u.alone(t, leader)
	u.sent(t, u.produce(t, most))
	u.committed(t)
	if code := p.Term(t); code != 0 {
		t.Errorf("exit code %d", code)
	}
	u.cluster.Brokers[leader-1].Kill(t)
	u.cluster.Brokers[follower-1].Start(t)
	u.led(t, follower)
	written := u.produce(t, 2*most) // beyond the committed offsets
	p = harness.StartReady(t, u.options(t))
	u.sent(t, written)
	p.WaitLog(t, patience, "the broker has lost records")
	u.cluster.Brokers[leader-1].Start(t)
}

func (u *unclean) options(t testing.TB) harness.Options {
	t.Helper()
	return harness.Options{Brokers: u.cluster.Addr, RedisAddr: harness.Redis(t).Addr, Topics: u.topics,
		Args: []string{"--topics.partitions=2", "--retry.schedule=1s,2s", "--overflow.delays=1s,3s", "--kafka.session_timeout=6s"}}
}

// place moves the source to the second and third broker, and lets either of them lead it, come what may.
func (u *unclean) place(t testing.TB) {
	t.Helper()
	var move kadm.AlterPartitionAssignmentsReq
	for p := range int32(2) {
		move.Assign(u.topics.DLR, p, []int32{2, 3})
	}
	if moved, err := u.adm.AlterPartitionAssignments(t.Context(), move); err != nil || moved.Error() != nil {
		t.Fatalf("move the source: %v, %v", err, moved.Error())
	}
	set, err := u.adm.AlterTopicConfigs(t.Context(), []kadm.AlterConfig{
		{Name: "unclean.leader.election.enable", Value: kadm.StringPtr("true")}, {Name: "min.insync.replicas", Value: kadm.StringPtr("1")},
	}, u.topics.DLR)
	if err != nil || set[0].Err != nil {
		t.Fatalf("set up the source: %v, %v", err, set)
	}
	u.together(t)
}

// state waits until every partition of the source is as wanted.
func (u *unclean) state(t testing.TB, what string, wanted func(kadm.PartitionDetail) bool) {
	t.Helper()
	var last kadm.PartitionDetails
	harness.Eventually(t, patience, func() bool {
		details, err := u.adm.ListTopics(t.Context(), u.topics.DLR)
		if err != nil {
			return false
		}
		last = details[u.topics.DLR].Partitions
		for _, p := range last {
			if !wanted(p) {
				return false
			}
		}
		return len(last) == 2
	}, "%s", what)
}

func (u *unclean) together(t testing.TB) {
	t.Helper()
	u.state(t, "both replicas are in sync", func(p kadm.PartitionDetail) bool { return len(p.Replicas) == 2 && len(p.ISR) == 2 && p.Leader >= 0 })
	if _, err := u.adm.ElectLeaders(t.Context(), kadm.ElectPreferredReplica, kadm.TopicsSet{u.topics.DLR: {0: {}, 1: {}}}); err != nil {
		t.Logf("elect the preferred leaders: %v", err)
	}
	u.state(t, "one broker leads both partitions", func(p kadm.PartitionDetail) bool { return p.Leader == 2 })
}

func (u *unclean) leader(testing.TB) (leader, follower int32) { return 2, 3 }

func (u *unclean) alone(t testing.TB, leader int32) {
	t.Helper()
	u.state(t, "the leader is alone in sync", func(p kadm.PartitionDetail) bool { return slices.Equal(p.ISR, []int32{leader}) })
}

func (u *unclean) led(t testing.TB, leader int32) {
	t.Helper()
	u.state(t, "the replica that lacks records leads", func(p kadm.PartitionDetail) bool { return p.Leader == leader })
}

// produce writes n receipts and returns their messages.
func (u *unclean) produce(t testing.TB, n int) (messages []int64) {
	t.Helper()
	var records []*kgo.Record
	for range n {
		u.next++
		r := harness.Event(u.topics.DLR, 1, harness.DLRValue(1, u.next))
		r.Partition = int32(u.next % 2)
		records, messages = append(records, r), append(messages, u.next)
	}
	harness.ProduceMany(t, u.cluster.Addr, records)
	return messages
}

// sent waits until all messages were sent.
func (u *unclean) sent(t testing.TB, messages []int64) {
	t.Helper()
	var missing []int64
	harness.Eventually(t, patience, func() bool {
		got := map[int64]bool{}
		for _, r := range u.recv.Requests("/dlr") {
			text, _ := strings.CutPrefix(string(r.Body), "sms=")
			var sms struct{ ID int64 }
			if plain, err := url.QueryUnescape(text); err != nil || json.Unmarshal([]byte(plain), &sms) != nil {
				t.Fatalf("body %q", r.Body)
			}
			got[sms.ID] = true
		}
		missing = slices.DeleteFunc(slices.Clone(messages), func(m int64) bool { return got[m] })
		return len(missing) == 0
	}, "%d messages from %d on are sent, missing: %v", len(messages), messages[0], missingText{&missing})
}

type missingText struct{ messages *[]int64 }

func (m missingText) String() string {
	return fmt.Sprintf("%d, such as %v", len(*m.messages), (*m.messages)[:min(len(*m.messages), 5)])
}

// committed waits until the group has committed the source's ends, with their leader epochs.
func (u *unclean) committed(t testing.TB) {
	t.Helper()
	harness.Eventually(t, patience, func() bool {
		ends, err := u.adm.ListEndOffsets(t.Context(), u.topics.DLR)
		if err != nil || ends.Error() != nil {
			return false
		}
		committed, err := u.adm.FetchOffsets(t.Context(), u.topics.Group)
		if err != nil {
			return false
		}
		all := true
		ends.Each(func(end kadm.ListedOffset) {
			at, ok := committed.Lookup(end.Topic, end.Partition)
			all = all && ok && at.At == end.Offset && at.LeaderEpoch >= 0
		})
		return all
	}, "the source's ends are committed, with leader epochs")
	harness.Pass(time.Second)
}

package faults_test

import (
	"encoding/json"
	"fmt"
	"net/url"
	"slices"
	"strings"
	"testing"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/smshooks/smshooks/test/real/harness"
)

// unclean is a service that reads a topic with two replicas, on the two brokers that may be killed.
type unclean struct {
	cluster *harness.Cluster
	topics  harness.Topics
	recv    *harness.Receiver
	adm     *kadm.Client
	next    int64 // message
}

// TestUncleanElection makes a replica that lacks records the leader, so that the partitions are truncated, under a
// running instance and while none runs. The records that replace the lost ones must be sent, and a log line must report
// the loss.
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
	u.cluster.Brokers[2].Stop(t)
	lost := u.lose(t, most, 2, 3, func() {})
	u.sent(t, u.produce(t, most/2)) // fewer than were lost
	u.named(t, p, lost)

	t.Log("while no instance runs: the second broker has not returned, so it lacks what the third one has received since")
	lost = u.lose(t, most, 3, 2, func() {
		if code := p.Term(t); code != 0 {
			t.Errorf("exit code %d", code)
		}
	})
	written := u.produce(t, 2*most) // beyond the committed offsets
	p = harness.StartReady(t, u.options(t))
	u.sent(t, written)
	u.named(t, p, lost)
}

// lose sends n records that only the leader has. The group commits them and meanwhile is called. Then the follower,
// which was down, becomes the leader. lose returns what was committed beyond the follower's end, by partition.
func (u *unclean) lose(t testing.TB, n int, leader, follower int32, meanwhile func()) (lost [2]stretch) {
	t.Helper()
	u.state(t, "only the leader is in sync", func(p kadm.PartitionDetail) bool {
		return p.Leader == leader && slices.Equal(p.ISR, []int32{leader})
	})
	u.sent(t, u.produce(t, n))
	to := u.committed(t)
	meanwhile()
	u.cluster.Brokers[leader-1].Stop(t)
	u.cluster.Brokers[follower-1].Start(t)
	u.state(t, "the replica that lacks records is the leader", func(p kadm.PartitionDetail) bool { return p.Leader == follower })
	from := u.ends(t)
	for p := range lost {
		lost[p] = stretch{from[p], to[p]}
		if from[p] >= to[p] {
			t.Fatalf("partition %d: the new leader ends at %d, the group has committed %d: nothing is lost", p, from[p], to[p])
		}
	}
	return lost
}

// stretch is a range of offsets of a partition, without to.
type stretch struct{ from, to int64 }

// named waits for the log lines about the loss.
func (u *unclean) named(t testing.TB, p *harness.Proc, lost [2]stretch) {
	t.Helper()
	for partition, l := range lost {
		p.WaitLog(t, patience, fmt.Sprintf(`"msg":"the broker has lost records: the log of the partition was truncated",`+
			`"topic":%q,"partition":%d,"from":%d,"to":%d,`, u.topics.DLR, partition, l.from, l.to-1))
	}
}

func (u *unclean) options(t testing.TB) harness.Options {
	t.Helper()
	return harness.Options{Brokers: u.cluster.Addr, RedisAddr: harness.Redis(t).Addr, Topics: u.topics,
		Args: []string{"--topics.partitions=2", "--retry.schedule=1s,2s", "--overflow.delays=1s,3s", "--kafka.session_timeout=6s"}}
}

// place moves the source to the second and third broker and allows unclean elections. The second one leads both
// partitions. The group's coordinator is the first broker: if it were stopped, the running instance would lose its
// partitions and start as after a restart.
func (u *unclean) place(t testing.TB) {
	t.Helper()
	const groups = "__consumer_offsets"
	harness.Eventually(t, patience, func() bool {
		found := u.adm.FindGroupCoordinators(t.Context(), u.topics.Group) // the first lookup creates the topic
		return found.Error() == nil
	}, "the group has a coordinator")
	var move kadm.AlterPartitionAssignmentsReq
	move.Assign(groups, 0, []int32{1, 2, 3})
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
	u.state(t, "both replicas are in sync", func(p kadm.PartitionDetail) bool { return len(p.Replicas) == 2 && len(p.ISR) == 2 })
	harness.Eventually(t, patience, func() bool {
		wanted := kadm.TopicsSet{u.topics.DLR: {0: {}, 1: {}}, groups: {0: {}}}
		if _, err := u.adm.ElectLeaders(t.Context(), kadm.ElectPreferredReplica, wanted); err != nil {
			return false
		}
		details, err := u.adm.ListTopics(t.Context(), u.topics.DLR, groups)
		if err != nil || details.Error() != nil {
			return false
		}
		source := details[u.topics.DLR].Partitions
		return source[0].Leader == 2 && source[1].Leader == 2 && details[groups].Partitions[0].Leader == 1
	}, "the second broker leads the source, and the first one the groups")
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

// ends returns the end offsets of the source's partitions.
func (u *unclean) ends(t testing.TB) (ends [2]int64) {
	t.Helper()
	harness.Eventually(t, patience, func() bool {
		listed, err := u.adm.ListEndOffsets(t.Context(), u.topics.DLR)
		if err != nil || listed.Error() != nil {
			return false
		}
		for p := range ends {
			end, ok := listed.Lookup(u.topics.DLR, int32(p))
			if !ok {
				return false
			}
			ends[p] = end.Offset
		}
		return true
	}, "the source's end offsets are known")
	return ends
}

// committed waits until the group has committed the source's ends, with their leader epochs, and returns them.
func (u *unclean) committed(t testing.TB) [2]int64 {
	t.Helper()
	ends := u.ends(t)
	harness.Eventually(t, patience, func() bool {
		committed, err := u.adm.FetchOffsets(t.Context(), u.topics.Group)
		if err != nil {
			return false
		}
		for p, end := range ends {
			at, ok := committed.Lookup(u.topics.DLR, int32(p))
			if !ok || at.At != end || at.LeaderEpoch < 0 {
				return false
			}
		}
		return true
	}, "the source's ends are committed, with leader epochs")
	return ends
}

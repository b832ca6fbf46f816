package faults_test

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/smshooks/smshooks/test/real/harness"
)

// inTurn runs short forms in parallel. A long form has the machine to itself.
func inTurn(t *testing.T) {
	t.Helper()
	harness.Need(t)
	if !long() {
		t.Parallel()
	}
}

// longOnly skips the short form of a case that another test of make test covers.
func longOnly(t *testing.T, test string) {
	t.Helper()
	if !long() {
		t.Skip("a case of make faults; in make test " + test + " covers it")
	}
}

// patience is how long instances may take to become ready on a busy machine.
const patience = 2 * time.Minute

// backlog is how long the events that are left at the end of a load may take.
func backlog() time.Duration { return pick(2*time.Minute, 8*time.Minute) }

// TestKill kills one of three instances with SIGKILL every two seconds and restarts it.
func TestKill(t *testing.T) {
	inTurn(t)
	rate, lasts := pick(500, 5000), pick(6*time.Second, time.Minute)
	rec := newCase(t, "1", "kill -9 of one of three instances", loadRate(rate, lasts))
	rec.did("one of three instances is killed with SIGKILL every 2 s for %v, each time another one, and started again at once", lasts)
	s := newEnv(t, harness.Kafka(t).Addr, harness.Redis(t).Addr, 500, "--kafka.session_timeout="+pick("4s", "2s"))
	// Each of the three has its own version, so that the judge knows whose requests may be repeated.
	members := make([]*harness.Proc, 3)
	start := func(n int) {
		o := s.options()
		o.Binary = harness.BinaryOf(t, version(n))
		members[n] = s.launch(t, o)
	}
	for n := range members {
		start(n)
	}
	for _, p := range members {
		p.WaitReady(t, patience)
	}
	all := slices.Clone(members)
	l := s.load(t, rate)
	s.judge.wait(t, rate, patience)
	var kills []span
	for began := time.Now(); time.Since(began) < lasts; harness.Pass(2 * time.Second) {
		n := len(kills) % 3
		now := time.Now()
		members[n].Kill()
		kills = append(kills, span{now, time.Now(), "smshooks/" + version(n)})
		start(n)
		all = append(all, members[n])
	}
	for _, p := range members {
		p.WaitReady(t, patience)
	}
	harness.Pass(pick(time.Second, 5*time.Second))
	b := s.drain(t, l.end(t), backlog())
	rec.note("%d kills; %d times a member had to give partitions away with more finished than a commit holds", len(kills), saidOf(all, "more is finished"))
	b.judge(t, rec, judgement{faults: kills, healed: kills[len(kills)-1].to, why: "in flight or not yet committed when the instance was killed"})
	wantNarrow(t, s, rec)
}

// version returns the version of the n-th instance, by which the judge tells instances apart.
func version(n int) string { return "instance-" + strconv.Itoa(n) }

// saidOf counts the log lines of instances that contain a text.
func saidOf(all []*harness.Proc, text string) (n int) {
	for _, p := range all {
		n += strings.Count(p.Log(), text)
	}
	return n
}

// members starts n instances and waits until they are ready.
func (s *env) members(t testing.TB, n int, flags ...string) []*harness.Proc {
	t.Helper()
	var all []*harness.Proc
	for range n {
		all = append(all, s.launch(t, s.options(flags...)))
	}
	for _, p := range all {
		p.WaitReady(t, patience)
	}
	return all
}

// TestStorm lets members join and leave continuously.
func TestStorm(t *testing.T) {
	inTurn(t)
	rate, lasts, n := pick(300, 2000), pick(5*time.Second, time.Minute), pick(4, 8)
	rec := newCase(t, "5", "rebalance storm", loadRate(rate, lasts))
	rec.did("%d members; for %v, each second one of them, chosen by chance, receives SIGTERM and another one is started", n, lasts)
	s := newEnv(t, harness.Kafka(t).Addr, harness.Redis(t).Addr, 500, "--topics.partitions="+pick("8", "16"), "--shutdown.grace=15s")
	members := s.members(t, n)
	l := s.load(t, rate)
	s.judge.wait(t, rate, patience)
	chance := rand.New(rand.NewPCG(6, 5))
	var leaving sync.WaitGroup
	var changes int
	for began := time.Now(); time.Since(began) < lasts; harness.Pass(time.Second) {
		i := chance.IntN(n)
		leaver := members[i]
		leaving.Go(func() { wantExit(t, leaver, 0) })
		members[i] = s.launch(t, s.options())
		changes++
	}
	ended := time.Now()
	leaving.Wait()
	for _, p := range members {
		p.WaitReady(t, patience)
	}
	harness.Pass(pick(time.Second, 5*time.Second))
	b := s.drain(t, l.end(t), backlog())
	rec.note("%d members left and %d joined", changes, changes)
	b.judge(t, rec, judgement{healed: ended})
	wantNarrow(t, s, rec)
}

// wantExit sends SIGTERM and checks the exit code. It may run in goroutines, since it does not end the test.
func wantExit(t testing.TB, p *harness.Proc, code int) time.Duration {
	t.Helper()
	began := time.Now()
	if got := p.Term(t); got != code {
		t.Errorf("exit code %d after SIGTERM, want %d", got, code)
	}
	return time.Since(began)
}

// wantNarrow checks that no endpoint had more than three requests at once.
func wantNarrow(t testing.TB, s *env, rec *caseRecord) {
	t.Helper()
	s.judge.mu.Lock()
	defer s.judge.mu.Unlock()
	rec.note("at most %d requests at once per endpoint, over the whole group", s.judge.widest)
	if s.judge.widest > 3 {
		t.Errorf("%d requests of one endpoint at once", s.judge.widest)
	}
}

// TestSigterm stops instances in the middle of their work, repeatedly. Requests in flight must end and be committed
// within the grace, so that nothing is sent twice.
func TestSigterm(t *testing.T) {
	inTurn(t)
	rate, rounds := pick(500, 3000), pick(2, 6)
	rec := newCase(t, "10", "SIGTERM under load", loadRate(rate, time.Duration(rounds)*2*time.Second)+", requests of up to 2 s")
	rec.did("the only instance receives SIGTERM in the middle of its work and is started again, %d times; shutdown.grace is 15 s", rounds)
	s := newEnv(t, harness.Kafka(t).Addr, harness.Redis(t).Addr, 500)
	s.judge.behave(func(kind string, user int64, attempt int) (int, time.Duration) {
		status, after := usual(kind, user, attempt)
		if user%50 == 7 {
			after = time.Duration(user%4+1) * 500 * time.Millisecond
		}
		return status, after
	})
	p := s.start(t)
	l := s.load(t, rate)
	var slowest time.Duration
	for range rounds {
		s.judge.wait(t, rate, patience)
		harness.Pass(time.Second)
		slowest = max(slowest, wantExit(t, p, 0))
		if slowest > 15*time.Second+harness.Slack(s.judge.began) {
			t.Errorf("the stop took %v, the grace is 15 s", slowest)
		}
		if n := s.judge.inFlight(); n > 0 {
			t.Errorf("%d requests were in flight when the process had ended", n)
		}
		p = s.start(t)
	}
	b := s.drain(t, l.end(t), backlog())
	rec.note("slowest stop %.1f s, exit code 0 each time, no request left in flight", slowest.Seconds())
	b.judge(t, rec, judgement{})
}

// inFlight returns the number of requests that are not answered yet.
func (j *judge) inFlight() (n int) {
	j.mu.Lock()
	defer j.mu.Unlock()
	for _, k := range j.flying {
		n += k
	}
	return n
}

// TestRolling replaces six instances one after the other, with each group protocol.
func TestRolling(t *testing.T) {
	longOnly(t, "TestGroupRebalance, TestGroupRebalanceByBrokers and TestStaticMember")
	for name, c := range map[string]struct {
		protocol string
		named    bool // kafka.instance_id: no rebalance, so no partition waits longer than its instance is down
	}{
		"classic":              {"classic", false},
		"classic, instance_id": {"classic", true},
		"consumer":             {"consumer", false},
	} {
		t.Run(name, func(t *testing.T) { rolling(t, name, c.protocol, c.named) })
	}
}

func rolling(t *testing.T, name, protocol string, named bool) {
	harness.Need(t)
	const instances, rate = 6, 2000
	rec := newCase(t, "11", "rolling restart of six, "+name, loadRate(rate, time.Minute))
	rec.did("six instances with kafka.group_protocol %s are stopped by SIGTERM and started again, one after the other: each waits until "+
		"the one before is ready and 5 s more", name)
	s := newEnv(t, harness.Kafka(t).Addr, harness.Redis(t).Addr, 500, "--kafka.session_timeout=45s", "--topics.partitions=12",
		"--kafka.group_protocol="+protocol)
	launch := func(n int) *harness.Proc {
		if named {
			return s.launch(t, s.options("--kafka.instance_id=member-"+strconv.Itoa(n)))
		}
		return s.launch(t, s.options())
	}
	members := make([]*harness.Proc, instances)
	for n := range members {
		members[n] = launch(n)
	}
	for _, p := range members {
		p.WaitReady(t, patience)
	}
	l := s.load(t, rate)
	s.judge.wait(t, 5*rate, patience)
	from := time.Now()
	harness.Pass(5 * time.Second)
	calmTo := time.Now()
	var away time.Duration
	for n := range members {
		began := time.Now()
		wantExit(t, members[n], 0)
		members[n] = launch(n)
		members[n].WaitReady(t, patience)
		away = max(away, time.Since(began))
		harness.Pass(5 * time.Second)
	}
	to := time.Now()
	b := s.drain(t, l.end(t), backlog())
	b.judge(t, rec, judgement{healed: to})
	calm, longest := b.idle(from, calmTo), b.idle(calmTo, to)
	rec.note("worst time without a first attempt, of the partitions from best to worst: %s; before the restarts the worst was %s. "+
		"An instance was away for up to %s", seconds(longest...), seconds(calm[len(calm)-1]), seconds(away))
	// As long as its instance was down, and a moment to rejoin; a rebalance would take the session's 45 s.
	worst := longest[len(longest)-1]
	if limit := away + 2*time.Second + harness.Slack(from); named && worst > limit {
		t.Errorf("a partition was idle for %v, want at most %v", worst, limit)
	}
}

// seconds formats durations.
func seconds(all ...time.Duration) string {
	var words []string
	for _, d := range all {
		words = append(words, fmt.Sprintf("%.1f", d.Seconds()))
	}
	return strings.Join(words, ", ") + " s"
}

// idle returns, for each partition of delivery receipts, the longest time between two first attempts of its events, in
// ascending order.
func (b *ledger) idle(from, to time.Time) (longest []time.Duration) {
	starts := map[string][]time.Time{}
	for id, s := range b.seen {
		record := b.produced[id].record
		if strings.HasPrefix(record, b.s.topics.DLR+"/") {
			partition := record[:strings.LastIndexByte(record, '/')]
			starts[partition] = append(starts[partition], b.s.judge.began.Add(s.hits[0].start))
		}
	}
	for _, times := range starts {
		slices.SortFunc(times, time.Time.Compare)
		last, gap := from, time.Duration(0)
		for _, at := range append(times, to) {
			if at.Before(from) || at.After(to) {
				continue
			}
			gap, last = max(gap, at.Sub(last)), at
		}
		longest = append(longest, gap)
	}
	slices.Sort(longest)
	return longest
}

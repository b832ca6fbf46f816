package faults_test

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/smshooks/smshooks/test/real/harness"
)

// TestClock sets the wall clock of the instances forward and back by an hour under load. No attempt may be early or an
// hour late.
func TestClock(t *testing.T) {
	inTurn(t)
	const rate = 200
	each := pick(3*time.Second, 80*time.Second)
	rec := newCase(t, "8", "clock step of an hour", loadRate(rate, 5*each))
	rec.did("the wall clock of two instances is set an hour forward, back again, an hour back, and forward again, %v each; the program is "+
		"built with a time.Now that can be set while it runs, timers go on as they do when a machine's clock is set", each)
	clock := harness.SteppedClock(t)
	s := newEnv(t, harness.Kafka(t).Addr, harness.Redis(t).Addr, 300)
	var members []*harness.Proc
	for range 2 {
		o := s.options()
		o.Binary, o.Env = clock.Binary, []string{clock.Env}
		members = append(members, s.launch(t, o))
	}
	for _, p := range members {
		p.WaitReady(t, patience)
	}
	l := s.load(t, rate)
	s.judge.wait(t, 2*rate, patience)
	var healed time.Time
	for _, off := range []time.Duration{time.Hour, 0, -time.Hour, 0} {
		clock.Step(t, off)
		kinds := []string{"dlr 1", "dlr 2", "dlr 3", "click 1", "inbound 1", "revoke 1"}
		before := s.judge.kinds()
		harness.Pass(each)
		harness.Eventually(t, patience, func() bool {
			now := s.judge.kinds()
			return !slices.ContainsFunc(kinds, func(what string) bool { return now[what] == before[what] })
		}, "clock off by %v: attempts of all kinds %v", off, kinds)
		after := s.judge.kinds()
		line := fmt.Sprintf("clock off by %v:", off)
		for _, what := range kinds {
			line += fmt.Sprintf(" %s attempts: %d;", what, after[what]-before[what])
		}
		rec.note("%s", strings.TrimSuffix(line, ";"))
		healed = time.Now()
	}
	b := s.drain(t, l.end(t), backlog())
	b.judge(t, rec, judgement{healed: healed})
	b.wantPurposes(t, members...)
}

// kinds counts the requests so far by kind and attempt, "dlr 1".
func (j *judge) kinds() map[string]int {
	j.mu.Lock()
	defer j.mu.Unlock()
	n := map[string]int{}
	for _, h := range j.hits {
		n[fmt.Sprintf("%s %d", j.kindOf[h.id], h.attempt)]++
	}
	return n
}

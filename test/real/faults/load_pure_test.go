package faults_test

import (
	"testing"
	"time"
)

// TestTraffic checks that all users get events, and that the hung ones get their share.
func TestTraffic(t *testing.T) {
	const events = 100_000
	for _, hung := range []int64{1, 10, 100} {
		for _, percent := range []int64{2, 20} {
			f := traffic{users: 1000, hung: hung, percent: percent}
			of := map[int64]int64{}
			for n := range int64(events) {
				of[f.user(n)]++
			}
			if len(of) != int(f.users) {
				t.Errorf("%v: %d users get events", f, len(of))
			}
			theirs := int64(0)
			for user, n := range of {
				if user < 1 || user > f.users {
					t.Errorf("%v: user %d", f, user)
				}
				if user > hung {
					continue
				}
				if theirs += n; n != events*percent/100/hung {
					t.Errorf("%v: user %d gets %d events", f, user, n)
				}
			}
			if theirs != events*percent/100 {
				t.Errorf("%v: the hung get %d of %d events", f, theirs, events)
			}
		}
	}
	calm := traffic{users: 1000}
	for n := range int64(events) {
		if user := calm.user(n); user < 1 || user > calm.users {
			t.Fatalf("user %d", user)
		}
	}
}

// TestLoadFails checks that users whose endpoints fail once or always get events of every kind.
func TestLoadFails(t *testing.T) {
	for _, users := range []int64{200, 300, 500, 2000} {
		s := &env{users: users}
		s.topics.DLR, s.topics.Click, s.topics.Inbound, s.topics.Revocation = "dlr", "click", "inbound", "revocation"
		once, always := map[string]int{}, map[string]int{}
		for n := range int64(100_000) {
			r, user := s.event(n), s.user(n)
			switch first, _ := usual("", user, 1); {
			case first == 200:
			default:
				if second, _ := usual("", user, 2); second == 200 {
					once[r.Topic]++
				} else {
					always[r.Topic]++
				}
			}
		}
		for _, topic := range s.sources() {
			if once[topic] == 0 || always[topic] == 0 {
				t.Errorf("%d users: of %s %d events fail once and %d always", users, topic, once[topic], always[topic])
			}
		}
	}
}

// TestCrowdSees checks that the crowd notices attempts that should not have been made.
func TestCrowdSees(t *testing.T) {
	const sec = time.Second
	for name, c := range map[string]struct {
		numbers             []int
		at                  []time.Duration
		again, beyond, late int
	}{
		"in time": {[]int{1, 2, 3}, []time.Duration{sec, 12 * sec, 24 * sec}, 0, 0, 0},
		"again":   {[]int{1, 1}, []time.Duration{sec, 2 * sec}, 1, 0, 0},
		"beyond":  {[]int{1, 2, 3, 4}, []time.Duration{sec, 12 * sec, 24 * sec, 36 * sec}, 0, 1, 0},
		"zero":    {[]int{0}, []time.Duration{sec}, 0, 1, 0},
		"early":   {[]int{1, 2, 3}, []time.Duration{sec, 5 * sec, 6 * sec}, 0, 0, 2},
	} {
		crowd := &crowd{schedule: []time.Duration{8 * sec, 9 * sec}}
		crowd.add(1)
		for i, attempt := range c.numbers {
			crowd.judge(0, attempt, c.at[i])
			crowd.ended[0] = c.at[i] + sec/2
		}
		if crowd.again != c.again || crowd.beyond != c.beyond || crowd.early(0) != c.late {
			t.Errorf("%s: %d again, %d beyond, %d early", name, crowd.again, crowd.beyond, crowd.early(0))
		}
	}
}

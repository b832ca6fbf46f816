package demo

import (
	"errors"
	"fmt"
	"strings"

	"github.com/smshooks/smshooks/pkg/webhook"
)

// facts are all that the ledger compares: what the service says of itself, and what others have counted.
type facts struct {
	figures
	acked            [webhook.NumKinds]int64 // gateway: source records that Kafka acknowledged
	waiting          [webhook.NumKinds]int64 // Kafka: records that were put into retry and overflow topics
	letters          [webhook.NumKinds]int64 // Kafka: records in the dead-letter topic
	requests         [webhook.NumKinds]int64 // receivers: requests that came
	filtered, repeat int64                   // gateway: clicks that must not fire
	batchMayDie      bool                    // a revocation batch may die without having been a record of its own
}

// side is one side of an equation.
type side struct {
	name  string
	terms []int64 // whose sum it is
}

func (s side) sum() (n int64) {
	for _, t := range s.terms {
		n += t
	}
	return n
}

// check is one row of the ledger: its sides must be equal.
type check struct {
	about string // what is compared; rows that compare the same follow each other
	kind  webhook.Kind
	sides []side
	note  string // how the last side is made up
}

func (c check) balanced() bool {
	for _, s := range c.sides[1:] {
		if s.sum() != c.sides[0].sum() {
			return false
		}
	}
	return true
}

// differs says in words what is not equal.
func (c check) differs() string {
	said := make([]string, len(c.sides))
	for i, s := range c.sides {
		said[i] = fmt.Sprintf("%s %d", s.name, s.sum())
	}
	return c.kind.String() + ": " + strings.Join(said, ", ")
}

// The subjects of the ledger's rows.
const (
	aboutRecords  = "Records: acknowledged to the gateway + put into waiting topics = consumed = sum of their fates"
	aboutRequests = "Requests: seen by the receivers = attempts counted"
	aboutLetters  = "Dead letters: in the topic = fate dead"
	aboutClicks   = "Clicks that must not fire: emitted by the gateway = not sent"
)

// balance draws up the ledger.
func balance(f facts) []check {
	var records, requests, letters []check
	for _, k := range webhook.Kinds() {
		fates, attempts := f.settled[k][:], f.attempts[k][:]
		records = append(records, check{aboutRecords, k, []side{
			{"acknowledged + waiting", []int64{f.acked[k], f.waiting[k]}},
			{"consumed", []int64{f.consumed[k]}}, {"sum of fates", []int64{side{terms: fates}.sum()}},
		}, listed(fates, func(i int) string { return webhook.Fates()[i].String() })})
		requests = append(requests, check{aboutRequests, k, []side{
			{"seen by receivers", []int64{f.requests[k]}}, {"attempts", []int64{side{terms: attempts}.sum()}},
		}, listed(attempts, func(i int) string { return webhook.Results()[i].String() })})
		if k != webhook.RevokeClick || !f.batchMayDie {
			letters = append(letters, check{aboutLetters, k, []side{
				{"in the topic", []int64{f.letters[k]}}, {"dead", []int64{f.settled[k][webhook.Dead]}},
			}, ""})
		}
	}
	clicks := []check{
		{aboutClicks, webhook.Click, []side{{"emitted for bots and previews", []int64{f.filtered}}, {"filtered", []int64{f.settled[webhook.Click][webhook.Filtered]}}}, "bots and previews = filtered"},
		{aboutClicks, webhook.Click, []side{{"repeated clicks emitted", []int64{f.repeat}}, {"duplicate", []int64{f.settled[webhook.Click][webhook.Duplicate]}}}, "clicked before = duplicate"},
	}
	return append(append(append(records, requests...), letters...), clicks...)
}

// listed names the counts that are not 0.
func listed(counts []int64, name func(int) string) string {
	var parts []string
	for i, n := range counts {
		if n > 0 {
			parts = append(parts, fmt.Sprintf("%s %d", name(i), n))
		}
	}
	return strings.Join(parts, ", ")
}

// final: nothing is on its road any more, and nothing is missing.
func (f facts) final() bool {
	return f.buffered == 0 && f.inFlight == 0 && verdict(balance(f), f) == nil
}

// verdict is nil if every row balances, else it says which do not.
func verdict(checks []check, f facts) error {
	var wrong []string
	for _, c := range checks {
		if !c.balanced() {
			wrong = append(wrong, c.differs())
		}
	}
	if f.buffered > 0 {
		wrong = append(wrong, fmt.Sprintf("%d records are still in memory", f.buffered))
	}
	if len(wrong) == 0 {
		return nil
	}
	return errors.New("the ledger does not balance: " + strings.Join(wrong, "; "))
}

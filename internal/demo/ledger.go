package demo

import (
	"errors"
	"fmt"
	"strings"

	"github.com/smshooks/smshooks/pkg/webhook"
)

// facts are the counts that the ledger compares: those of the service and those that others counted.
type facts struct {
	counts
	acked            [webhook.NumKinds]int64 // gateway: source records that Kafka acknowledged
	waiting          [webhook.NumKinds]int64 // Kafka: records written to delay topics
	letters          [webhook.NumKinds]int64 // Kafka: records in the dead letter topic
	requests         [webhook.NumKinds]int64 // receivers: requests received
	filtered, repeat int64                   // gateway: clicks that must not be sent
	batchMayDie      bool                    // a revocation batch may become a dead letter without being a record of its own
}

// side is one side of an equation.
type side struct {
	name  string
	terms []int64 // their sum is the value
}

func (s side) sum() (n int64) {
	for _, t := range s.terms {
		n += t
	}
	return n
}

// check is one row of the ledger: its sides must be equal.
type check struct {
	about string // the comparison; the same for consecutive rows
	kind  webhook.Kind
	sides []side
	note  string // breakdown of the last side
}

func (c check) balanced() bool {
	for _, s := range c.sides[1:] {
		if s.sum() != c.sides[0].sum() {
			return false
		}
	}
	return true
}

// differs describes how the sides differ.
func (c check) differs() string {
	said := make([]string, len(c.sides))
	for i, s := range c.sides {
		said[i] = fmt.Sprintf("%s %d", s.name, s.sum())
	}
	return c.kind.String() + ": " + strings.Join(said, ", ")
}

// The subjects of the ledger's rows.
const (
	aboutRecords  = "Records: acknowledged to the gateway + written to delay topics = consumed = sum of fates"
	aboutRequests = "Requests: received = attempts counted by the service"
	aboutLetters  = "Dead letters: in the topic = fate dead"
	aboutClicks   = "Clicks that must not be sent: emitted by the gateway = not sent"
)

// balance computes the ledger.
func balance(f facts) []check {
	var records, requests, letters []check
	for _, k := range webhook.Kinds() {
		fates, attempts := f.settled[k][:], f.attempts[k][:]
		records = append(records, check{aboutRecords, k, []side{
			{"acknowledged + delayed", []int64{f.acked[k], f.waiting[k]}},
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

// listed returns the counts that are not 0, with their names.
func listed(counts []int64, name func(int) string) string {
	var parts []string
	for i, n := range counts {
		if n > 0 {
			parts = append(parts, fmt.Sprintf("%s %d", name(i), n))
		}
	}
	return strings.Join(parts, ", ")
}

// final reports whether all events are settled and the ledger balances.
func (f facts) final() bool {
	return f.buffered == 0 && f.inFlight == 0 && verdict(balance(f), f) == nil
}

// verdict returns nil if every row balances, or an error with the rows that do not.
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

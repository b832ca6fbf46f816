package kafka

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/smshooks/smshooks/internal/topics"
	"github.com/smshooks/smshooks/pkg/delay"
)

// Risk is a setting of topics with which a broker that fails may lose records, or stop all writes, or with which
// records are deleted earlier than documented. The service works with it: whether it is a mistake depends on what the
// cluster is for.
type Risk struct {
	// Topics that have the setting.
	Topics []string
	// What is risky: "replication factor 1".
	What string
	// Why it matters, and what to do.
	Why string
}

// String returns one line: what, which topics, why.
func (r Risk) String() string {
	noun := "topics "
	if len(r.Topics) == 1 {
		noun = "topic "
	}
	return r.What + ": " + noun + strings.Join(r.Topics, ", ") + "; " + r.Why
}

// TopicRisks checks the replicas, the durability settings and the retention of the existing topics, including the
// brokers' defaults.
func TopicRisks(ctx context.Context, cl *kgo.Client, plan *topics.Plan) ([]Risk, error) {
	s, err := readSurvey(ctx, cl, plan)
	if err != nil {
		return nil, fmt.Errorf("look for risky topic settings: %w", err)
	}
	return s.risks(), nil
}

func (s survey) risks() []Risk {
	kinds := []struct {
		has       func(state) bool
		what, why string
	}{
		{
			func(s state) bool { return s.replicas == 1 }, "replication factor 1",
			"if that broker is lost, so are their records: use 3 replicas (topics.replication for topics that are created)",
		},
		{
			func(s state) bool { n, ok := s.limit("min.insync.replicas"); return ok && n <= 1 }, "min.insync.replicas=1",
			"a record counts as stored when one replica has it: set min.insync.replicas=2 with 3 replicas",
		},
		{
			func(s state) bool { return s.configs["unclean.leader.election.enable"] == "true" },
			"unclean.leader.election.enable=true",
			"a replica that lags behind may become leader, and the records that it lacks are lost: " +
				"set unclean.leader.election.enable=false",
		},
	}
	var risks []Risk
	for _, kind := range kinds {
		risk := Risk{What: kind.what, Why: kind.why}
		for _, topic := range s.All() {
			if t, ok := s.states[topic]; ok && kind.has(t) {
				risk.Topics = append(risk.Topics, topic)
			}
		}
		if len(risk.Topics) > 0 {
			risks = append(risks, risk)
		}
	}
	return append(risks, s.retentionRisks()...)
}

// retentionRisks compares the topics whose records are kept for other readers with the documented retention. The
// service does not need it, so an operator may choose less.
func (s survey) retentionRisks() (risks []Risk) {
	for _, kept := range []struct {
		topic string
		least time.Duration
		lost  string
	}{
		{s.DeadLetter, deadLetterRetention, "dead letters that are deleted can no longer be replayed"},
		{s.Events, eventsRetention, "a program that is down for longer misses endpoint events"},
	} {
		if retention, less := s.states[kept.topic].keepsLess(kept.least); less {
			risks = append(risks, Risk{
				Topics: []string{kept.topic},
				What: fmt.Sprintf("retention.ms=%d (%s), below %d days", retention.Milliseconds(), delay.Name(retention),
					kept.least/(24*time.Hour)),
				Why: kept.lost + ": set retention.ms=" + millis(kept.least),
			})
		}
	}
	return risks
}

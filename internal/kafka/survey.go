package kafka

import (
	"context"
	"math"

	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/smshooks/smshooks/internal/topics"
	"github.com/smshooks/smshooks/pkg/webhook"
)

// survey is a plan and what the brokers report of its topics.
type survey struct {
	*topics.Plan
	states map[string]state
}

func readSurvey(ctx context.Context, cl *kgo.Client, plan *topics.Plan) (survey, error) {
	states, err := readState(ctx, cl, plan.All())
	return survey{plan, states}, err
}

// source returns the state of the source of a consumed topic; ok is false if it does not exist.
func (s survey) source(topic string) (name string, source state, ok bool) {
	name = s.Sources()[s.Describe(topic).Kind]
	source, ok = s.states[name]
	return name, source, ok
}

// largest returns the max.message.bytes that a topic which smshooks writes records to needs, and the source that needs
// it: records keep their value and get headers. It returns 0 for a topic that needs none.
func (s survey) largest(topic string) (need int64, source string) {
	if topic != s.DeadLetter && !s.Delayed(topic) {
		return 0, ""
	}
	for kind, name := range s.Sources() {
		if topic != s.DeadLetter && s.Describe(topic).Kind != webhook.Kind(kind) {
			continue
		}
		limit, ok := s.states[name].limit(maxMessage)
		if webhook.Kind(kind) == webhook.RevokeClick {
			limit, ok = max(limit, largestBatch), true // several records become one
		}
		if ok && limit+headerRoom > need {
			need, source = limit+headerRoom, name
		}
	}
	return min(need, math.MaxInt32), source
}

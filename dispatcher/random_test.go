package dispatcher

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"net/http"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/smshooks/smshooks/internal/event"
	"github.com/smshooks/smshooks/internal/topics"
	"github.com/smshooks/smshooks/pkg/webhook"
)

// TestEachEventEndsOnce checks that each event has one end, whatever Redis, the endpoints, the settings and the group do.
func TestEachEventEndsOnce(t *testing.T) {
	for seed := range uint64(6) {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			withEnv(t, func(t *testing.T, s *env) {
				r := rand.New(rand.NewPCG(seed, 1))
				var handled []string
				step := func() {
					switch r.IntN(8) {
					case 0:
						s.redis(r.IntN(2) == 0)
					case 1:
						s.answers([]func(http.ResponseWriter, *http.Request){
							status(200), status(500), slow(time.Second), slow(9 * time.Second), hung,
						}[r.IntN(5)])
					case 2:
						s.mu.Lock()
						delete(s.memory, r.Int64N(8)) // evicted
						s.mu.Unlock()
					case 3:
						s.mu.Lock()
						s.stored[r.Int64N(8)] = settings(r.Int64N(8))
						s.noDial = []error{nil, nil, syscall.EMFILE, errors.New("refused")}[r.IntN(4)]
						s.mu.Unlock()
					default:
						handled = append(handled, s.handleRandom(r, int64(len(handled)))...)
					}
					s.rest(time.Duration(r.Int64N(int64(3 * time.Second))))
				}
				for range 40 {
					step()
				}
				s.mu.Lock()
				s.lease.closed = true
				s.mu.Unlock()
				s.Purge()
				for range 3 {
					step()
				}
				s.lease.cancel()
				s.rest(time.Minute)
				for _, id := range handled {
					if end := s.endOf(id); end == "" || strings.Contains(end, ", ") {
						t.Errorf("%s ended %q, want one end", id, end)
					}
				}
			})
		})
	}
}

// handleRandom passes some events to Handle, numbered from from. It returns their ids.
func (s *env) handleRandom(r *rand.Rand, from int64) (ids []string) {
	n := int64(1 + r.IntN(60))
	if r.IntN(10) == 0 {
		n = 3 * maxLookups
	}
	var events []*event.Event
	for offset := from; offset < from+n; offset++ {
		user := r.Int64N(12)
		if r.IntN(10) == 0 {
			user = locked
		}
		e := s.newEvent([]webhook.Kind{webhook.DLR, webhook.Click, webhook.Inbound}[r.IntN(3)], offset, user, fmt.Sprint(r.IntN(50)))
		e.Class = []topics.Class{topics.Source, topics.Source, topics.Retry, topics.Overflow}[r.IntN(4)]
		events, ids = append(events, e), append(ids, e.Identity())
	}
	s.Handle(events)
	return ids
}

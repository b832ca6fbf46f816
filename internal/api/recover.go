package api

import (
	"context"
	"errors"
	"time"

	"go.uber.org/zap"

	"github.com/smshooks/smshooks/internal/api/form"
	"github.com/smshooks/smshooks/internal/event"
	"github.com/smshooks/smshooks/internal/release"
	"github.com/smshooks/smshooks/pkg/webhook"
)

const (
	// recoverAgain is the Retry-After of a request while another recovery is running.
	recoverAgain = 5 * time.Second
	// latestTime limits how long a request waits for news of recoveries that other instances have begun.
	latestTime = 2 * time.Second
)

// Recoveries release delayed events.
type Recoveries interface {
	// Recover begins a recovery of kinds and returns its id. The events of paused kinds stay paused.
	Recover(ctx context.Context, m release.Marker, kinds []webhook.Kind, paused [webhook.NumKinds]bool) (string, error)
	// CatchUp returns when all recoveries that were begun by now are known.
	CatchUp(ctx context.Context) error
	// Latest returns the user's latest recovery; ok is false if there is none.
	Latest(userID int64) (latest release.Status, ok bool)
	// Err returns why Latest may not know all recoveries.
	Err() error
}

// Recovery selects a user's delayed events. Its zero value selects all.
type Recovery struct {
	Kind         *webhook.Kind // nil: all kinds
	Since, Until time.Time     // bound the time of the event: since ≤ t < until; zero: no bound
	IDs          []string      // of events; empty: all
}

var errRecovering = &TooManyError{"recover: another recovery of yours is running", recoverAgain}

// Recover makes the user's delayed events that r selects due now and returns the id of the recovery.
func (s *Service) Recover(ctx context.Context, userID int64, r Recovery) (id string, err error) {
	ctx, cancel := context.WithTimeout(ctx, answerTime)
	defer cancel()
	done, err := s.turn(ctx, &s.recovering, "recover", userID, errRecovering)
	if err == nil {
		defer done()
		id, err = s.begin(ctx, userID, r)
	}
	if err != nil {
		return "", s.cannotScan(askRecover, userID, err)
	}
	s.failing[askRecover].Recover()
	s.Log.Info("recovery started", zap.Int64("user_id", userID), zap.String("recovery", id))
	return id, nil
}

func (s *Service) begin(ctx context.Context, userID int64, r Recovery) (string, error) {
	latest, ok, err := s.latest(ctx, userID)
	if err != nil {
		return "", err
	}
	if ok && latest.Ended.IsZero() {
		return "", errRecovering
	}
	d, _, err := s.Documents.Document(ctx, userID)
	if err != nil {
		return "", err
	}
	kinds := webhook.Kinds()
	m := release.Marker{Cause: release.Customer, User: userID, Since: r.Since, Until: r.Until, IDs: r.IDs}
	if r.Kind != nil {
		return s.Recoveries.Recover(ctx, m, []webhook.Kind{*r.Kind}, furtherOf(&d).Paused)
	}
	return s.Recoveries.Recover(ctx, m, kinds[:], furtherOf(&d).Paused)
}

// latest returns the user's latest recovery, also if another instance began it a moment ago.
func (s *Service) latest(ctx context.Context, userID int64) (latest release.Status, ok bool, err error) {
	reading, cancel := context.WithTimeout(ctx, latestTime)
	defer cancel()
	// An open transaction may hold the end back: what is known is then good enough.
	if err := s.Recoveries.CatchUp(reading); err != nil && !errors.Is(err, context.DeadlineExceeded) {
		return latest, false, err
	}
	if err := s.Recoveries.Err(); err != nil {
		return latest, false, err
	}
	latest, ok = s.Recoveries.Latest(userID)
	return latest, ok, nil
}

// LatestRecovery returns the user's latest recovery; ok is false if there is none.
func (s *Service) LatestRecovery(ctx context.Context, userID int64) (latest release.Status, ok bool, err error) {
	ctx, cancel := context.WithTimeout(ctx, answerTime)
	defer cancel()
	if latest, ok, err = s.latest(ctx, userID); err != nil {
		return latest, false, s.unavailable(askRecover, userID, err)
	}
	s.failing[askRecover].Recover()
	return latest, ok, nil
}

type recoveryReply struct {
	ID string `json:"id"`
}

type statusReply struct {
	ID       string  `json:"id"`
	State    string  `json:"state"` // running or done
	Released int64   `json:"released"`
	Started  string  `json:"started"`
	Ended    *string `json:"ended"`
}

func (h *handler) recover(r *request) (any, error) {
	s, err := parseSelection(r.params, "kind", "since", "until", "ids")
	if err != nil {
		return nil, err
	}
	if s.none {
		return nil, &InvalidError{[]FieldError{{"ids", "must have at least one id"}}}
	}
	id, err := h.service.Recover(r.quick, r.userID, Recovery{s.kind, s.since, s.until, s.ids})
	if err != nil {
		return nil, err
	}
	return recoveryReply{id}, nil
}

func (h *handler) getRecovery(r *request) (any, error) {
	s, ok, err := h.service.LatestRecovery(r.quick, r.userID)
	if err != nil || !ok {
		return nil, err
	}
	reply := statusReply{ID: s.ID, State: "running", Released: s.Released, Started: event.FormatTime(s.Started)}
	if !s.Ended.IsZero() {
		ended := event.FormatTime(s.Ended)
		reply.State, reply.Ended = "done", &ended
	}
	return reply, nil
}

// selection holds the fields that select the events of a request.
type selection struct {
	ids          []string
	since, until time.Time
	kind         *webhook.Kind
	given        bool // at least one field was given
	none         bool // ids is an empty list
}

// parseSelection parses the given fields of ids, since, until and kind, in the order of their errors. An error is an
// *InvalidError.
func parseSelection(p form.Values, fields ...string) (s selection, err error) {
	var invalid InvalidError
	instant := func(text string, to *time.Time) string {
		var err error
		if *to, err = parseTime(text); err != nil {
			return mustBeTime
		}
		return ""
	}
	for _, name := range fields {
		problem := ""
		if name == "ids" {
			if s.ids, s.none = listOf(p["ids"]); p["ids"].Wrong {
				problem = "must be a list of strings"
			}
			s.given = s.given || len(s.ids) > 0
		} else {
			var text *string
			if text, problem = p.Text(name); text != nil && *text != "" {
				s.given = true
				switch name {
				case "since":
					problem = instant(*text, &s.since)
				case "until":
					problem = instant(*text, &s.until)
				case "kind":
					kind, err := webhook.ParseKind(*text)
					if s.kind = &kind; err != nil {
						problem = mustBeKind
					}
				}
			}
		}
		if problem != "" {
			invalid.Fields = append(invalid.Fields, FieldError{name, problem})
		}
	}
	if len(invalid.Fields) > 0 {
		return s, &invalid
	}
	s.given = s.given && !s.none
	return s, nil
}

// turn takes the user's turn at an operation, in this instance and across all instances. It returns taken if another
// request has the turn. done ends it.
func (s *Service) turn(
	ctx context.Context, t *turns, what string, userID int64, taken *TooManyError,
) (done func(), err error) {
	if !t.begin(userID) {
		return nil, taken
	}
	here := func() { t.end(userID) }
	if s.Turns == nil {
		return here, nil
	}
	everywhere, ok, err := s.Turns.Begin(ctx, what, userID)
	switch {
	case err != nil:
		here()
		return nil, err
	case !ok:
		here()
		return nil, taken
	}
	return func() { everywhere(); here() }, nil
}

package api

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"go.uber.org/zap"

	"github.com/smshooks/smshooks/internal/deadletter"
	"github.com/smshooks/smshooks/internal/deliverylog"
	"github.com/smshooks/smshooks/internal/event"
	"github.com/smshooks/smshooks/pkg/webhook"
)

// Sources reads the source records of events, and sends events again.
type Sources interface {
	// Source returns the value of an event's record, or nil if the topic no longer holds it.
	Source(ctx context.Context, o deadletter.Origin) ([]byte, error)
	// Resend replays a user's events whose records are still kept, and returns how many.
	Resend(ctx context.Context, userID int64, origins []deadletter.Origin) (int, error)
}

// Event returns one of the user's events, and the body of its request, nil if that is not known any more. found is
// false if the log has no such event of the user.
func (s *Service) Event(ctx context.Context, userID int64, id string) (e deliverylog.Event, body []byte, found bool,
	err error) {
	ctx, cancel := context.WithTimeout(ctx, answerTime)
	defer cancel()
	events, err := s.events(ctx, userID, func(a *event.LogEntry) bool { return a.ID == id })
	if err != nil || len(events) == 0 {
		return e, nil, false, err
	}
	e = events[0]
	value, err := s.Sources.Source(ctx, originOf(userID, &e))
	if err != nil {
		return e, nil, true, s.unavailable(askSource, userID, err)
	}
	s.failing[askSource].Recover()
	if value != nil {
		if body, err = bodyOf(e.Kind, value); err != nil {
			return e, nil, true, s.unavailable(askSource, userID, err)
		}
	}
	return e, body, true, nil
}

// Events returns the user's latest events, in the order of their first log entries.
func (s *Service) Events(ctx context.Context, userID int64) ([]deliverylog.Event, error) {
	ctx, cancel := context.WithTimeout(ctx, answerTime)
	defer cancel()
	return s.events(ctx, userID, func(*event.LogEntry) bool { return true })
}

// Message returns the user's events of a message, oldest first.
func (s *Service) Message(ctx context.Context, userID int64, message string) ([]deliverylog.Event, error) {
	ctx, cancel := context.WithTimeout(ctx, answerTime)
	defer cancel()
	return s.events(ctx, userID, func(a *event.LogEntry) bool {
		return a.Kind != webhook.RevokeClick && a.Message.String() == message
	})
}

func (s *Service) events(ctx context.Context, userID int64,
	wanted func(*event.LogEntry) bool) ([]deliverylog.Event, error) {
	events, err := s.Deliveries.Events(ctx, userID, wanted)
	if err != nil {
		return nil, s.unavailable(askDeliveries, userID, err)
	}
	s.failing[askDeliveries].Recover()
	return events, nil
}

func originOf(userID int64, e *deliverylog.Event) deadletter.Origin {
	o := deadletter.Origin{ID: e.ID, UserID: userID, Kind: e.Kind, Partition: e.Partition, Offset: e.Offset,
		End: e.End, IDs: e.IDs}
	for _, a := range e.Attempts {
		if a.Failure != "" && a.Fate != webhook.Delivered {
			o.Failed = a.Time.Add(a.Took)
			break
		}
	}
	return o
}

// resend sends the events of f.IDs that are in the log, except dead letters, which have records of their own. It
// returns the number of events sent and the remaining ids.
func (s *Service) resend(ctx context.Context, userID int64, f deadletter.Filter) (n int, rest []string, err error) {
	events, err := s.events(ctx, userID, func(a *event.LogEntry) bool { return slices.Contains(f.IDs, a.ID) })
	if err != nil {
		return 0, nil, err
	}
	rest = f.IDs
	var origins []deadletter.Origin
	for i := range events {
		e := &events[i]
		if e.Fate == webhook.Dead || !selects(&f, e) {
			continue
		}
		origins = append(origins, originOf(userID, e))
		rest = slices.DeleteFunc(slices.Clone(rest), func(id string) bool { return id == e.ID })
	}
	if len(origins) > 0 {
		n, err = s.Sources.Resend(ctx, userID, origins)
	}
	return n, rest, err
}

// selects reports whether e has the kind of f, and its latest change is within the times of f.
func selects(f *deadletter.Filter, e *deliverylog.Event) bool {
	return (f.Kind == "" || f.Kind == e.Kind.String()) && (f.Since.IsZero() || !e.Changed.Before(f.Since)) &&
		(f.Until.IsZero() || e.Changed.Before(f.Until))
}

// replayAll sends the events that f selects: from the log if f has ids, and from the dead letters.
func (s *Service) replayAll(ctx context.Context, userID int64, f deadletter.Filter) (n int, err error) {
	if len(f.IDs) > 0 {
		if n, f.IDs, err = s.resend(ctx, userID, f); err != nil || len(f.IDs) == 0 {
			return n, err
		}
	}
	f.UserID = userID
	dead, err := s.DeadLetters.Replay(ctx, f)
	return n + dead, err
}

// Replay sends the user's events that f selects again, except those whose replay is under way, and returns how many:
// dead letters, and with ids any event of the log whose record is still kept.
func (s *Service) Replay(ctx context.Context, userID int64, f deadletter.Filter) (int, error) {
	ctx, done, err := s.scan(ctx, userID)
	if err != nil {
		return 0, s.cannotScan(askReplay, userID, err)
	}
	defer done()
	// A replay does not need the settings. It fails without them anyway, so that the whole API answers 503.
	if _, _, err := s.Documents.Document(ctx, userID); err != nil {
		return 0, s.unavailable(askReplay, userID, err)
	}
	n, err := s.replayAll(ctx, userID, f)
	if limited, is := errors.AsType[*deadletter.LimitError](err); is {
		if n == 0 {
			return 0, &TooManyError{fmt.Sprintf("replay: too many events; the limit is %d per hour", s.ReplayLimit),
				limited.After}
		}
		err = nil // some were sent; the next request receives the error
	}
	if err != nil {
		return n, s.unavailable(askReplay, userID, err)
	}
	s.failing[askReplay].Recover()
	s.Log.Info("events sent again", zap.Int64("user_id", userID), zap.Int("events", n))
	return n, nil
}

func (h *handler) event(r *request) (any, error) {
	e, body, found, err := h.service.Event(r.quick, r.userID, r.argument)
	switch {
	case err != nil:
		return nil, err
	case !found:
		return nil, &statusError{http.StatusNotFound, "id: no such event among your latest deliveries"}
	}
	reply := eventReply{messageReply: newMessageReply(&e)}
	if body != nil {
		reply.Request = &requestReply{e.Kind.ContentType(), string(body)}
	}
	return reply, nil
}

func (h *handler) message(r *request) (any, error) {
	events, err := h.service.Message(r.quick, r.userID, r.argument)
	if err != nil {
		return nil, err
	}
	list := make([]messageReply, len(events))
	for i := range events {
		list[i] = newMessageReply(&events[i])
	}
	return list, nil
}

// messageReply is an event in the list of its message.
type messageReply struct {
	ID          string         `json:"id"`
	Kind        string         `json:"kind"`
	MessageID   *string        `json:"message_id"`
	EventTime   *string        `json:"event_time"`
	State       string         `json:"state"`
	NextAttempt *string        `json:"next_attempt"`
	Attempts    []attemptReply `json:"attempts"`
}

type eventReply struct {
	messageReply
	Request *requestReply `json:"request"`
}

type requestReply struct {
	ContentType string `json:"content_type"`
	Body        string `json:"body"`
}

type attemptReply struct {
	Attempt  int     `json:"attempt"`
	Time     string  `json:"time"`
	Status   string  `json:"status"`
	HTTPCode *int    `json:"http_code"`
	Error    *string `json:"error"`
	Duration float64 `json:"duration"`
	Host     string  `json:"host"`
	Failover bool    `json:"failover"`
	Reply    *string `json:"reply"`
}

func newMessageReply(e *deliverylog.Event) messageReply {
	r := messageReply{
		ID: e.ID, Kind: e.Kind.String(), MessageID: orNull(e.Message), EventTime: timeOrNull(e.Time), State: e.Fate.State(),
		NextAttempt: timeOrNull(e.Next), Attempts: make([]attemptReply, len(e.Attempts)),
	}
	for i := range e.Attempts {
		a := &e.Attempts[i]
		d := newDeliveryReply(&a.LogEntry)
		r.Attempts[i] = attemptReply{
			Attempt: d.Attempt, Time: d.Time, Status: d.Status, HTTPCode: d.HTTPCode, Error: d.Error, Duration: d.Duration,
			Host: d.Host, Failover: a.Failover,
		}
		if a.HasReply {
			r.Attempts[i].Reply = &a.Reply
		}
	}
	return r
}

func orNull(text string) *string {
	if text == "" {
		return nil
	}
	return &text
}

func timeOrNull(t time.Time) *string {
	if t.IsZero() {
		return nil
	}
	return orNull(event.FormatTime(t))
}

// parseCode parses an HTTP status. It returns 0 if text is not one.
func parseCode(text string) int {
	if n, err := strconv.Atoi(text); err == nil && n >= 100 && n <= 999 && len(text) == 3 {
		return n
	}
	return 0
}

// argumentOf returns the route of an escaped path that ends with an argument, such as "/v1/user/events/{id}".
func (h *handler) argumentOf(path string) (to route, argument string, ok bool) {
	for pattern, to := range h.routes {
		prefix, _, has := strings.Cut(pattern, "{")
		rest, fits := strings.CutPrefix(path, prefix)
		if argument, err := url.PathUnescape(rest); has && fits && rest != "" && err == nil && !strings.Contains(rest, "/") {
			return to, argument, true
		}
	}
	return to, "", false
}

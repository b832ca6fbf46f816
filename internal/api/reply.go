package api

import (
	"bytes"
	"encoding/json"
	"errors"
	"math"
	"net/http"
	"time"

	"github.com/smshooks/smshooks/internal/api/limit"
	"github.com/smshooks/smshooks/internal/event"
	"github.com/smshooks/smshooks/pkg/webhook"
)

// statusError is a status with one error text.
type statusError struct {
	status int
	text   string
}

func (e *statusError) Error() string { return e.text }

type success struct {
	Success bool `json:"success"`
	Data    any  `json:"data"`
}

type failure struct {
	Success bool     `json:"success"`
	Data    []any    `json:"data"`
	Errors  []string `json:"errors"`
}

func succeed(w http.ResponseWriter, data any) { reply(w, http.StatusOK, success{true, data}) }

func fail(w http.ResponseWriter, status int, texts ...string) {
	reply(w, status, failure{false, []any{}, texts})
}

// refuse writes the response for err.
func refuse(w http.ResponseWriter, err error) {
	var (
		status  *statusError
		invalid *InvalidError
		tooMany *TooManyError
	)
	switch {
	case errors.As(err, &invalid):
		texts := make([]string, len(invalid.Fields))
		for i, f := range invalid.Fields {
			texts[i] = f.String()
		}
		fail(w, http.StatusUnprocessableEntity, texts...)
	case errors.As(err, &status):
		if status.status == http.StatusUnauthorized {
			w.Header().Set("WWW-Authenticate", keyName)
		}
		fail(w, status.status, status.text)
	case errors.As(err, &tooMany):
		limit.SetRetryAfter(w, tooMany.After)
		fail(w, http.StatusTooManyRequests, tooMany.What)
	default:
		w.Header().Set("Retry-After", "1")
		fail(w, http.StatusServiceUnavailable, "service: temporarily unavailable; try again")
	}
}

// reply writes compact JSON without HTML escapes.
func reply(w http.ResponseWriter, status int, body any) {
	var b bytes.Buffer
	enc := json.NewEncoder(&b)
	enc.SetEscapeHTML(false)
	if err := enc.Encode(body); err != nil {
		status, b = http.StatusInternalServerError, bytes.Buffer{} // cannot happen: all types can be encoded
	}
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	w.Write(bytes.TrimSuffix(b.Bytes(), []byte("\n")))
}

type webhooksReply struct {
	DLRURL         *string `json:"dlr_url"`
	ClickURL       *string `json:"click_url"`
	InboundURL     *string `json:"inbound_url"`
	RevokeClickURL *string `json:"revoke_click_url"`
	Auth           bool    `json:"auth"`
}

func newWebhooksReply(w Webhooks) webhooksReply {
	return webhooksReply{w.URLs[webhook.DLR], w.URLs[webhook.Click], w.URLs[webhook.Inbound], w.URLs[webhook.RevokeClick],
		w.Auth}
}

type furtherReply struct {
	DLRFailoverURL         *string  `json:"dlr_failover_url"`
	ClickFailoverURL       *string  `json:"click_failover_url"`
	InboundFailoverURL     *string  `json:"inbound_failover_url"`
	RevokeClickFailoverURL *string  `json:"revoke_click_failover_url"`
	DLRPaused              bool     `json:"dlr_paused"`
	ClickPaused            bool     `json:"click_paused"`
	InboundPaused          bool     `json:"inbound_paused"`
	RevokeClickPaused      bool     `json:"revoke_click_paused"`
	DLROrder               string   `json:"dlr_order"`
	DLRStatuses            []string `json:"dlr_statuses"`
	Signing                bool     `json:"signing"`
}

func newFurtherReply(f Further) furtherReply {
	return furtherReply{
		f.FailoverURLs[webhook.DLR], f.FailoverURLs[webhook.Click], f.FailoverURLs[webhook.Inbound],
		f.FailoverURLs[webhook.RevokeClick],
		f.Paused[webhook.DLR], f.Paused[webhook.Click], f.Paused[webhook.Inbound], f.Paused[webhook.RevokeClick],
		f.Order, f.Statuses, f.Signing,
	}
}

type rotateReply struct {
	Secret             string  `json:"secret"`
	PreviousValidUntil *string `json:"previous_valid_until"`
}

type clearReply struct {
	Signing bool `json:"signing"`
}

type testReply struct {
	Status   string   `json:"status"`
	HTTPCode int      `json:"http_code,omitempty"`
	Reason   string   `json:"reason,omitempty"`
	Time     *float64 `json:"time,omitempty"`
}

func newTestReply(t TestResult) testReply {
	r := testReply{Status: t.Status, HTTPCode: t.HTTPCode, Reason: t.Reason}
	if t.Status != TestSkipped {
		took := seconds(t.Took)
		r.Time = &took
	}
	return r
}

type testsReply struct {
	DLR         testReply `json:"dlr"`
	Click       testReply `json:"click"`
	Inbound     testReply `json:"inbound"`
	RevokeClick testReply `json:"revoke_click"`
}

type deliveryReply struct {
	ID       string  `json:"id"`
	Kind     string  `json:"kind"`
	Attempt  int     `json:"attempt"`
	Time     string  `json:"time"`
	Status   string  `json:"status"`
	HTTPCode *int    `json:"http_code"`
	Error    *string `json:"error"`
	Duration float64 `json:"duration"`

	MessageID   *string `json:"message_id"`
	Host        string  `json:"host"`
	NextAttempt *string `json:"next_attempt"`
	Failover    bool    `json:"failover,omitempty"`
}

func newDeliveryReply(a *event.LogEntry) deliveryReply {
	r := deliveryReply{
		ID: a.ID, Kind: a.Kind.String(), Attempt: a.Number, Time: event.FormatTime(a.Time),
		Status: a.Failure.Result().String(), Duration: seconds(a.Took),
		MessageID: orNull(a.Message.String()), Host: a.Host, NextAttempt: timeOrNull(a.Next), Failover: a.Failover,
	}
	if a.Status != 0 {
		r.HTTPCode = &a.Status
	}
	if a.Failure != "" {
		text := string(a.Failure)
		r.Error = &text
	}
	return r
}

type replayReply struct {
	Replayed int `json:"replayed"`
}

// seconds rounds to three decimals.
func seconds(d time.Duration) float64 { return math.Round(d.Seconds()*1000) / 1000 }

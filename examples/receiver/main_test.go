package main

import (
	"bytes"
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strconv"
	"strings"
	"testing"
	"time"
)

const form = "application/x-www-form-urlencoded"

const eventAt = "2026-02-27T14:30:00.123Z"

func smsBody(text string) string { return "sms=" + url.QueryEscape(text) }

// send posts body and returns the status of the answer.
func send(h http.Handler, path, contentType, body string, header ...string) int {
	req := httptest.NewRequest(http.MethodPost, path, strings.NewReader(body))
	req.Header.Set("Content-Type", contentType)
	req.Header.Set("Webhook-Event-Time", eventAt)
	for i := 0; i < len(header); i += 2 {
		req.Header.Set(header[i], header[i+1])
	}
	w := httptest.NewRecorder()
	h.ServeHTTP(w, req)
	return w.Code
}

func TestEvents(t *testing.T) {
	for _, tc := range []struct {
		name, path, contentType, body string
		status                        int
		line                          string
	}{
		{"dlr", "/dlr", form, smsBody(`{"id":9007199254740993,"dlr_status":"Delivered"}`), 200, `dlr           message 9007199254740993 is "Delivered"`},
		{"click", "/click", form, smsBody(`{"id":"a;b","original_url":"https://example.com/?a=1&b=2"}`), 200, `click         message "a;b", "https://example.com/?a=1&b=2"`},
		{"inbound", "/inbound", form, smsBody(`{"id":1,"from":15550100,"message":"one\ntwo"}`), 200, `inbound       message 1 from 15550100: "one\ntwo"`},
		{"revocation", "/revoke_click", "application/json", `{"event":"clicks_revoked","count":3,"api_sms_ids":[1,2],"campaign_sms_ids":[3]}`, 200, "revoke_click  api [1 2], campaigns [3]"},
		{"not JSON", "/dlr", form, "sms=%7B", 400, ""},
		{"not an object", "/dlr", form, "sms=null", 400, ""},
		{"no message id", "/dlr", form, "sms={}", 400, ""},
		{"not a form", "/inbound", "application/json", "{}", 400, ""},
		{"another event", "/revoke_click", "application/json", `{"event":"other"}`, 400, ""},
		{"too large", "/click", form, smsBody(strings.Repeat("x", maxBody)), 400, ""},
		{"unknown path", "/other", form, "", 404, ""},
	} {
		t.Run(tc.name, func(t *testing.T) {
			var out bytes.Buffer
			h := newReceiver("", nil, &out).handler()
			if got := send(h, tc.path, tc.contentType, tc.body, "Webhook-Id", "x/0/1", "Webhook-Attempt", "1"); got != tc.status {
				t.Errorf("status %d, want %d", got, tc.status)
			}
			want := ""
			if tc.line != "" {
				want = tc.line + "  id x/0/1, attempt 1, of " + eventAt + "\n"
			}
			if out.String() != want {
				t.Errorf("printed %q, want %q", out.String(), want)
			}
		})
	}
}

func TestPrintsAnEventOnce(t *testing.T) {
	var out bytes.Buffer
	r := newReceiver("", nil, &out)
	r.seen = newMemory(2)
	h := r.handler()
	for i, tc := range []struct {
		id    string
		lines int
	}{{"a", 1}, {"a", 1}, {"b", 2}, {"a", 2}, {"c", 3}, {"a", 4 /* forgotten meanwhile */}, {"c", 4}} {
		if got := send(h, "/dlr", form, smsBody(`{"id":1}`), "Webhook-Id", tc.id); got != 200 {
			t.Errorf("step %d: status %d", i, got)
		}
		if got := strings.Count(out.String(), "\n"); got != tc.lines {
			t.Errorf("step %d (%q): %d lines, want %d", i, tc.id, got, tc.lines)
		}
	}
}

type brokenOnce struct {
	bytes.Buffer
	broken bool
}

func (b *brokenOnce) Write(p []byte) (int, error) {
	if !b.broken {
		b.broken = true
		return 0, errors.New("disk full")
	}
	return b.Buffer.Write(p)
}

// TestAnswersOnlyForStoredEvents checks that an event that could not be stored is refused, and stored when it is
// repeated.
func TestAnswersOnlyForStoredEvents(t *testing.T) {
	var out brokenOnce
	h := newReceiver("", nil, &out).handler()
	for _, want := range []int{500, 200} {
		if got := send(h, "/dlr", form, smsBody(`{"id":1}`), "Webhook-Id", "a"); got != want {
			t.Errorf("status %d, want %d", got, want)
		}
	}
	if out.Len() == 0 {
		t.Error("the event is lost")
	}
}

func TestAuth(t *testing.T) {
	for _, tc := range []struct {
		path, user, pass string
		status           int
	}{
		{"/dlr", "ann", "s3:cret", 200},
		{"/dlr", "ann", "wrong", 401},
		{"/dlr", "", "", 401},
		{"/click", "", "", 200},
	} {
		req := httptest.NewRequest(http.MethodPost, tc.path, strings.NewReader(smsBody(`{"id":1}`)))
		req.Header.Set("Content-Type", form)
		req.Header.Set("Webhook-Id", "a")
		req.Header.Set("Webhook-Event-Time", eventAt)
		if tc.user != "" {
			req.SetBasicAuth(tc.user, tc.pass)
		}
		w := httptest.NewRecorder()
		newReceiver("ann:s3:cret", nil, &bytes.Buffer{}).handler().ServeHTTP(w, req)
		if w.Code != tc.status {
			t.Errorf("%s as %q: status %d, want %d", tc.path, tc.user, w.Code, tc.status)
		}
	}
}

// TestSignature sends signed, forged, unsigned, replayed and old requests.
func TestSignature(t *testing.T) {
	key, err := parseSecret("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw")
	if err != nil {
		t.Fatal(err)
	}
	for _, bad := range []string{"MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw", "whsec_!", "whsec_", "whsec_c2hvcnQ="} {
		if _, err := parseSecret(bad); err == nil {
			t.Errorf("%s was accepted as a secret", bad)
		}
	}
	body := smsBody(`{"id":1}`)
	now := strconv.FormatInt(time.Now().Unix(), 10)
	hourAgo := strconv.FormatInt(time.Now().Add(-time.Hour).Unix(), 10)
	sign := func(key []byte, text string) string {
		mac := hmac.New(sha256.New, key)
		mac.Write([]byte(text))
		return "v1," + base64.StdEncoding.EncodeToString(mac.Sum(nil))
	}
	right := sign(key, "a."+now+"."+body)
	var out bytes.Buffer
	h := newReceiver("", key, &out).handler()
	for _, tc := range []struct {
		name, id, at, signature string
		status, lines           int
	}{
		{"signed", "a", now, right, 200, 1},
		{"replayed", "a", now, right, 200, 1},
		{"unsigned", "b", now, "", 401, 1},
		{"another id", "b", now, right, 401, 1},
		{"another key", "b", now, sign([]byte("other"), "b."+now+"."+body), 401, 1},
		{"another body", "b", now, sign(key, "b."+now+".x"), 401, 1},
		{"old", "b", hourAgo, sign(key, "b."+hourAgo+"."+body), 401, 1},
		{"another time", "b", now, sign(key, "b."+hourAgo+"."+body), 401, 1},
		{"no time", "b", "", sign(key, "b.."+body), 401, 1},
		{"one of two", "b", now, sign([]byte("new"), "b."+now+"."+body) + " " + sign(key, "b."+now+"."+body), 200, 2},
	} {
		got := send(h, "/dlr", form, body, "Webhook-Id", tc.id, "Webhook-Timestamp", tc.at, "Webhook-Signature", tc.signature)
		if lines := strings.Count(out.String(), "\n"); got != tc.status || lines != tc.lines {
			t.Errorf("%s: status %d, %d lines; want %d, %d", tc.name, got, lines, tc.status, tc.lines)
		}
	}
}

// TestOrder sends a Pending after the Delivered of the same message.
func TestOrder(t *testing.T) {
	var out bytes.Buffer
	h := newReceiver("", nil, &out).handler()
	for i, tc := range []struct {
		path, body, id, at string
		status, lines      int
	}{
		{"/dlr", `{"id":1,"dlr_status":"Delivered"}`, "a", "2026-02-27T14:30:00.123Z", 200, 1},
		{"/dlr", `{"id":1,"dlr_status":"Pending"}`, "b", "2026-02-27T14:30:00.122Z", 200, 1},
		{"/dlr", `{"id":1,"dlr_status":"Pending"}`, "b", "2026-02-27T14:30:00.122Z", 200, 1},
		{"/dlr", `{"id":2,"dlr_status":"Pending"}`, "c", "2026-02-27T14:30:00.000Z", 200, 2},
		{"/click", `{"id":1}`, "d", "2026-02-27T14:29:00.000Z", 200, 3},
		{"/dlr", `{"id":1,"dlr_status":"Failed"}`, "e", "2026-02-27T14:30:00.123Z", 200, 4},
		{"/dlr", `{"id":1,"dlr_status":"Failed"}`, "f", "2026-02-27 14:30:00", 400, 4},
		{"/dlr", `{"id":1,"dlr_status":"Failed"}`, "", "2026-02-27T14:30:00.123Z", 400, 4},
	} {
		got := send(h, tc.path, form, smsBody(tc.body), "Webhook-Id", tc.id, "Webhook-Event-Time", tc.at)
		if lines := strings.Count(out.String(), "\n"); got != tc.status || lines != tc.lines {
			t.Errorf("step %d: status %d, %d lines; want %d, %d", i, got, lines, tc.status, tc.lines)
		}
	}
}

// TestPaths checks that every form of a path requires credentials and accepts genuine events.
func TestPaths(t *testing.T) {
	for _, path := range []string{"/dlr", "/dlr/", "/dlr?x=1", "/dlr/?x=1", "//dlr", "/hooks/dlr", "/%64lr", "/DLR", "/dlr;x",
		"/./dlr", "/dlr/.", "/dlr/..", "/dlr%2f", "/dlr%00", "/x?/dlr"} {
		var out bytes.Buffer
		h := newReceiver("ann:secret", nil, &out).handler()
		body := smsBody(`{"id":1}`)
		if got := send(h, path, form, body, "Webhook-Id", "a"); got == http.StatusOK || out.Len() > 0 {
			t.Errorf("%s without credentials: status %d, %q", path, got, out.String())
		}
		got := send(h, path, form, body, "Webhook-Id", "a", "Authorization", "Basic YW5uOnNlY3JldA==")
		if !strings.ContainsAny(path, "D;.") && path != "/dlr%00" && path != "/x?/dlr" && got != http.StatusOK {
			t.Errorf("%s with credentials: status %d", path, got)
		}
	}
}

func TestServeEnds(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := serve(ctx, "127.0.0.1:0", newReceiver("", nil, &bytes.Buffer{})); err != nil && !errors.Is(err, http.ErrServerClosed) {
		t.Errorf("serve: %v", err)
	}
	if err := serve(t.Context(), "127.0.0.1:http-none", newReceiver("", nil, &bytes.Buffer{})); err == nil {
		t.Error("no error for a wrong address")
	}
}

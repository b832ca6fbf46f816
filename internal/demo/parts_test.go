package demo

import (
	"bytes"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/smshooks/smshooks/config"
	"github.com/smshooks/smshooks/pkg/webhook"
)

func TestShorten(t *testing.T) {
	cfg, err := config.Load("", []string{"SMSHOOKS_RETRY_SCHEDULE=7s", "SMSHOOKS_OPS_ADDR=127.0.0.1:9999", "SMSHOOKS_DISPATCH_ALLOW_NETWORKS=10.0.0.0/8"}, nil)
	if err != nil {
		t.Fatal(err)
	}
	Shorten(cfg, 30*time.Second)
	if len(cfg.Retry.Schedule) != 1 || cfg.Retry.Schedule[0] != 7*time.Second || cfg.Ops.Addr != "127.0.0.1:9999" {
		t.Errorf("a given setting was changed: %v, %s", cfg.Retry.Schedule, cfg.Ops.Addr)
	}
	if cfg.Dispatch.Timeout != 2*time.Second || cfg.API.Addr != "127.0.0.1:0" || cfg.Log.Level != "error" {
		t.Errorf("a default was not changed: %v, %s, %s", cfg.Dispatch.Timeout, cfg.API.Addr, cfg.Log.Level)
	}
	if len(cfg.Dispatch.AllowNetworks) != 2 {
		t.Errorf("networks %v", cfg.Dispatch.AllowNetworks)
	}
}

// For any length of the demo, an event of the slowest user fits in, and that user's slots keep up.
func TestCast(t *testing.T) {
	for _, length := range []time.Duration{8 * time.Second, 15 * time.Second, 30 * time.Second, 5 * time.Minute} {
		cfg := config.Defaults()
		Shorten(cfg, length)
		for _, u := range newUsers(cfg, length) {
			if end := u.until + u.longest; end > length+time.Second {
				t.Errorf("%v: %s ends at %v", length, u.name, end)
			}
			if u.until < length/4 {
				t.Errorf("%v: %s receives events for only %v", length, u.name, u.until)
			}
		}
	}
}

// The records are valid, and there are clicks of each sort.
func TestRecords(t *testing.T) {
	var m webhook.Message
	if err := webhook.Decode(webhook.DLR, dlrRecord(101, 7), &m); err != nil || m.UserID != 101 {
		t.Errorf("dlr: %v, user %d", err, m.UserID)
	}
	if err := webhook.Decode(webhook.Inbound, inboundRecord(101, 7), &m); err != nil {
		t.Errorf("inbound: %v", err)
	}
	g := newGateway(nil, [webhook.NumKinds]string{}, nil)
	u := &user{id: 101}
	seen := map[string]bool{}
	var sorts [3]int
	for range 70 {
		value, sort := g.click(u)
		if err := webhook.Decode(webhook.Click, value, &m); err != nil {
			t.Fatal(err)
		}
		sorts[sort]++
		human := !m.Bot && !m.Preview
		if id := m.ID(value); human && seen[id] != (sort == repeated) || human == (sort == filtered) {
			t.Fatalf("%s is labelled as sort %d", value, sort)
		} else if human {
			seen[id] = true
		}
	}
	if sorts != [3]int{40, 20, 10} {
		t.Errorf("counts by sort: %v", sorts)
	}
}

func TestReceiver(t *testing.T) {
	users := newUsers(config.Defaults(), time.Minute)
	post := func(r *receiver, id string) int {
		req, err := http.NewRequest(http.MethodPost, r.url(webhook.RevokeClick), strings.NewReader(`{"campaign_sms_ids":[1,2,3]}`))
		if err != nil {
			t.Fatal(err)
		}
		req.Header.Set("Webhook-Id", id)
		resp, err := (&http.Client{Timeout: 100 * time.Millisecond}).Do(req)
		if err != nil {
			return hang
		}
		_ = resp.Body.Close()
		return resp.StatusCode
	}
	for i, want := range [][3]int{{200, 200, 200}, {500, 500, 200}, {hang, hang, hang}, {503, 503, 503}} {
		r := users[i].receiver
		if err := r.start(); err != nil {
			t.Fatal(err)
		}
		defer r.server.Close()
		for n, status := range want {
			if got := post(r, "a"); got != status {
				t.Errorf("%s: request %d is answered %d, want %d", users[i].name, n+1, got, status)
			}
		}
		records := int64(0)
		if want[2] == 200 {
			records = 3 // once, however often it came
		}
		if got := r.tally(); got.requests[webhook.RevokeClick] != 3 || got.records != records {
			t.Errorf("%s counted %+v", users[i].name, got)
		}
	}
}

func TestFrame(t *testing.T) {
	var out bytes.Buffer
	v := &screen{out: &out, redraw: true}
	v.frame([]string{"one", "two"})
	v.frame([]string{"three"})
	want := wrapOff + "one" + clearLine + "\ntwo" + clearLine + "\n" + clearDown + wrapOn +
		wrapOff + "\x1b[2A\rthree" + clearLine + "\n" + clearDown + wrapOn
	if out.String() != want {
		t.Errorf("drawn %q, want %q", out.String(), want)
	}
	if v.paint(red, "x") != "x" {
		t.Error("coloured although the output has no colours")
	}
}

func TestBrowser(t *testing.T) {
	for system, want := range map[string]string{"linux": "xdg-open u", "freebsd": "xdg-open u", "darwin": "open u", "windows": "rundll32 url.dll,FileProtocolHandler u"} {
		name, args := browser(system, "u")
		if got := name + " " + strings.Join(args, " "); got != want {
			t.Errorf("%s: %s, want %s", system, got, want)
		}
	}
}

func TestEquation(t *testing.T) {
	for want, sides := range map[string][]side{
		"4 + 1 = 5 = 5": {{terms: []int64{4, 1}}, {terms: []int64{5}}, {terms: []int64{1, 2, 2}}},
		"4 + 1 ≠ 4 = 4": {{terms: []int64{4, 1}}, {terms: []int64{4}}, {terms: []int64{4}}},
	} {
		if got := equation(sides); got != want {
			t.Errorf("%s, want %s", got, want)
		}
	}
}

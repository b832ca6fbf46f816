package main

import (
	"bytes"
	"strings"
	"testing"
	"time"

	"github.com/smshooks/smshooks/internal/event"
	"github.com/smshooks/smshooks/internal/explain"
	"github.com/smshooks/smshooks/pkg/webhook"
	"github.com/smshooks/smshooks/test/fakekafka"
)

// explainedEvents returns a delayed event and one of which little is known.
func explainedEvents() []explain.Event {
	at := func(hour int) time.Time { return time.Date(2026, 2, 27, hour, 30, 0, 250e6, time.UTC) }
	return []explain.Event{
		{
			ID: "evt_65zCzbYEsdPvvuoJ9JsGNu", UserID: 42, Kind: webhook.DLR, MessageID: "12345", From: "Shop", To: "+4790000012",
			Time: at(8), State: explain.Waiting, Attempts: 1, Next: at(14), Failure: "http 503",
			Copies: []explain.Copy{
				{Topic: "sms-dlr", Partition: 3, Offset: 17, Class: "source", Time: at(8), Committed: true},
				{Topic: "sms-dlr-retry-6h", Partition: 3, Offset: 1234567, Class: "retry", Time: at(8), Due: at(14)},
			},
			Log: []event.LogEntry{{Number: 1, Time: at(8), Host: "example.com", Status: 503, Failure: "http 503", Took: 245400 * time.Microsecond}},
		},
		{
			ID: "odd\x1b[2J", Kind: webhook.RevokeClick, State: explain.Dead, Reason: webhook.WindowExpired,
			Copies: []explain.Copy{{Topic: "webhook-dead-letter", Class: explain.DeadLetter, Time: at(9)}},
		},
	}
}

func TestExplainTable(t *testing.T) {
	var out bytes.Buffer
	if err := writeExplained(&out, explainedEvents(), false); err != nil {
		t.Fatal(err)
	}
	const want = `event         evt_65zCzbYEsdPvvuoJ9JsGNu
kind          dlr
user          42
message       12345
from          Shop
to            *********12
event time    2026-02-27T08:30:00.250Z
state         waiting
attempts      1
next attempt  2026-02-27T14:30:00.250Z
error         http 503

RECORD                      CLASS   WRITTEN                   DUE                       COMMITTED
sms-dlr/3/17                source  2026-02-27T08:30:00.250Z  -                         yes
sms-dlr-retry-6h/3/1234567  retry   2026-02-27T08:30:00.250Z  2026-02-27T14:30:00.250Z  no

ATTEMPT  TIME                      HOST         RESULT    TOOK
1        2026-02-27T08:30:00.250Z  example.com  http 503  245ms

event     "odd\x1b[2J"
kind      revoke_click
state     dead
attempts  0
reason    window_expired

RECORD                   CLASS        WRITTEN                   DUE  COMMITTED
webhook-dead-letter/0/0  dead letter  2026-02-27T09:30:00.250Z  -    -
`
	if out.String() != want {
		t.Errorf("the table is\n%s\nwant\n%s", out.String(), want)
	}
	out.Reset()
	if err := writeExplained(&out, explainedEvents(), true); err != nil || !strings.Contains(out.String(), "+4790000012\n") {
		t.Errorf("--show-personal-data: %v\n%s", err, out.String())
	}
}

// TestExplainSettled checks that an event that left no attempt is explained by what may have become of it.
func TestExplainSettled(t *testing.T) {
	for kind, want := range map[webhook.Kind]string{webhook.DLR: "dlr_statuses", webhook.Click: "not the first", webhook.Inbound: "no URL was set\n", webhook.RevokeClick: "batch"} {
		for _, state := range []explain.State{explain.Settled, explain.Delivered} {
			var out bytes.Buffer
			err := writeExplained(&out, []explain.Event{{ID: "evt_1", Kind: kind, State: state}}, false)
			if err != nil || strings.Contains(out.String(), want) != (state == explain.Settled) {
				t.Errorf("%s, %s: %v\n%s", kind, state, err, out.String())
			}
		}
	}
}

func TestExplainJSON(t *testing.T) {
	const (
		first = `{"id":"evt_65zCzbYEsdPvvuoJ9JsGNu","user_id":42,"kind":"dlr","message_id":"12345","event_time":"2026-02-27T08:30:00.250Z",` +
			`"state":"waiting","attempts":1,"next_attempt":"2026-02-27T14:30:00.250Z","error":"http 503","copies":[` +
			`{"topic":"sms-dlr","partition":3,"offset":17,"time":"2026-02-27T08:30:00.250Z","due":null,"committed":true},` +
			`{"topic":"sms-dlr-retry-6h","partition":3,"offset":1234567,"time":"2026-02-27T08:30:00.250Z","due":"2026-02-27T14:30:00.250Z","committed":false}]}`
		second = `{"id":"odd\u001b[2J","user_id":null,"kind":"revoke_click","message_id":null,"event_time":null,"state":"dead","attempts":0,` +
			`"next_attempt":null,"error":null,"copies":[{"topic":"webhook-dead-letter","partition":0,"offset":0,"time":"2026-02-27T09:30:00.250Z",` +
			`"due":null,"committed":false}]}`
	)
	for _, c := range []struct {
		array bool
		want  string
	}{{true, "[" + first + "," + second + "]\n"}, {false, first + "\n" + second + "\n"}} {
		var out bytes.Buffer
		if err := printExplained(&out, explainedEvents(), c.array); err != nil || out.String() != c.want {
			t.Errorf("%v, printed\n%s\nwant\n%s", err, out.String(), c.want)
		}
	}
}

func TestMaskedNumbers(t *testing.T) {
	for text, want := range map[string]string{
		"": "", "4790000012": "********12", "+4790000012": "*********12", "Shop": "Shop", "24": "24", "2001": "**01", "Shop24": "Shop24",
		"+4790000012x": "**********2x", "tel:+47 90000012": "**************12", "Club123456": "Club123456", "4790000012ä": "*********2ä", "€": "€", "0😀": "0😀", "€€€": "*€€",
	} {
		if got := number(text, false); got != want {
			t.Errorf("%q is shown as %q, want %q", text, got, want)
		}
		if got := number(text, true); got != text {
			t.Errorf("%q is shown as %q in full", text, got)
		}
	}
}

func TestExplainAndSendUsage(t *testing.T) {
	for _, line := range []string{
		"explain", "explain --user 42", "explain --message 1", "explain a b", "explain a --message 1 --user 42", "explain a --user 0",
		"explain a --since soon", "explain a --kind sms", "send", "send --user 0", "send --user 42 --kind sms", "send --user 42 --count 0",
		"send --user 42 --rate -1", "send --user 42 --rate NaN", "send --user 42 --file /nowhere/record.json", "send --user 42 more",
	} {
		var out, stderr bytes.Buffer
		if code := run(t.Context(), strings.Fields(line), &out, &stderr); code != exitUsage || out.Len() > 0 || stderr.Len() == 0 {
			t.Errorf("%s: exit code %d, stdout %q, stderr %q", line, code, out.String(), stderr.String())
		}
	}
}

// TestExplainTakesItsTime checks that the timeout of commands with a few requests does not end a search, which may read
// whole topics.
func TestExplainTakesItsTime(t *testing.T) {
	brokers := "--kafka.brokers=" + fakekafka.New(t).ListenAddrs()[0]
	output(t, "topics", "ensure", "--topics.partitions=1", "--topics.replication=1", brokers)
	defer func(usual time.Duration) { adminTimeout = usual }(adminTimeout)
	adminTimeout = time.Nanosecond
	var out bytes.Buffer
	code := run(t.Context(), []string{"explain", "--user=42", "--message=1", brokers}, &out, &out)
	if code != exitFailed || !strings.Contains(out.String(), "nothing found") {
		t.Errorf("exit code %d, %s", code, out.String())
	}
}

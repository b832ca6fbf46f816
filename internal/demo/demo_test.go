package demo

import (
	"context"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"go.uber.org/zap"
	"go.uber.org/zap/zaptest"

	"github.com/smshooks/smshooks/config"
)

// quick returns the options of a demo of about two seconds, and its output so far.
func quick(t *testing.T, flags ...string) (Options, func() string) {
	t.Helper()
	environ := append([]string{"SMSHOOKS_DISPATCH_TIMEOUT=500ms", "SMSHOOKS_RETRY_SCHEDULE=100ms,100ms", "SMSHOOKS_REVOCATION_INTERVAL=500ms"}, flags...)
	cfg, err := config.Load("", environ, nil)
	if err != nil {
		t.Fatal(err)
	}
	const length = 2 * time.Second
	Shorten(cfg, length)
	out, err := os.Create(filepath.Join(t.TempDir(), "out"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = out.Close() })
	written := func() string {
		text, err := os.ReadFile(out.Name())
		if err != nil {
			t.Fatal(err)
		}
		return string(text)
	}
	return Options{Config: cfg, Length: length, Version: "test", Log: zaptest.NewLogger(t, zaptest.Level(zap.ErrorLevel)), Out: out}, written
}

func TestRun(t *testing.T) {
	t.Parallel()
	o, written := quick(t, "SMSHOOKS_SECRETS_KEY=MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWY=")
	if err := Run(t.Context(), o); err != nil {
		t.Errorf("the demo failed: %v", err)
	}
	text := written()
	for _, want := range []string{"user 103", "6h shortened to 100ms", "/metrics", "sending", "✓ revoke_click", "The ledger balances"} {
		if !strings.Contains(text, want) {
			t.Errorf("the output lacks %q", want)
		}
	}
	for _, not := range []string{"\x1b", "✗"} {
		if strings.Contains(text, not) {
			t.Errorf("the output has %q", not)
		}
	}
	if t.Failed() {
		t.Log(text)
	}
}

// Each of these is a fault that only an independent count can reveal.
func TestRunReportsWhatIsMissing(t *testing.T) {
	t.Parallel()
	for name, tc := range map[string]struct {
		fault func(*testing.T, *setup)
		want  string
	}{
		"a record": {func(_ *testing.T, s *setup) { s.gateway.acked[0].Add(1) }, "dlr: acknowledged + delayed"},
		"a request": {func(t *testing.T, s *setup) {
			resp, err := http.Post(s.users[0].receiver.url(0), "", strings.NewReader("sms={}"))
			if err != nil {
				t.Fatal(err)
			}
			_ = resp.Body.Close()
		}, "dlr: seen by receivers"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			o, written := quick(t)
			s, err := start(t.Context(), o)
			if err != nil {
				t.Fatal(err)
			}
			defer s.close()
			tc.fault(t, s)
			err = s.play(t.Context(), newScreen(o.Out), time.Second)
			if err == nil || !strings.Contains(err.Error(), tc.want) {
				t.Errorf("error %v, want it to contain %q", err, tc.want)
			}
			if text := written(); !strings.Contains(text, "✗ dlr") || !strings.Contains(text, "differs: ") {
				t.Errorf("the ledger does not show it:\n%s", text)
			}
		})
	}
}

func TestInterrupt(t *testing.T) {
	t.Parallel()
	o, written := quick(t)
	o.Length = time.Hour
	s, err := start(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	defer s.close()
	ctx, cancel := context.WithCancel(t.Context())
	time.AfterFunc(time.Second, cancel)
	if err := s.play(ctx, newScreen(o.Out), spareTime); err != nil {
		t.Errorf("an interrupted demo failed: %v", err)
	}
	if text := written(); !strings.Contains(text, "The ledger balances") {
		t.Errorf("no ledger:\n%s", text)
	}
}

func TestAddressInUse(t *testing.T) {
	t.Parallel()
	r := &receiver{answer: func(int) int { return 200 }}
	if err := r.start(); err != nil {
		t.Fatal(err)
	}
	defer r.server.Close()
	for _, name := range []string{"ops.addr", "api.addr"} {
		o, _ := quick(t, "SMSHOOKS_"+strings.ToUpper(strings.ReplaceAll(name, ".", "_"))+"="+r.addr)
		if err := Run(t.Context(), o); err == nil || !strings.Contains(err.Error(), name) {
			t.Errorf("error %v, want it to name %s", err, name)
		}
	}
}

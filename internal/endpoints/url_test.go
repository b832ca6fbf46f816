package endpoints

import (
	"testing"
	"time"

	"github.com/smshooks/smshooks/pkg/webhook"
)

// TestNewURL checks that a new URL is another endpoint: it does not fail before its first attempt has, and that failure
// is reported.
func TestNewURL(t *testing.T) {
	g := newGroup(t)
	a, b := g.start(), g.start()
	before, after := webhook.NewEndpoint(g.url), webhook.NewEndpoint("https://example.com:8443/y")
	if n := testing.AllocsPerRun(100, func() { Fingerprint(before) }); n != 0 { // of each failure
		t.Errorf("%v allocations, want none", n)
	}
	fails := func(e *webhook.Endpoint) bool {
		states, err := a.Store.States(t.Context(), 1)
		if err != nil {
			t.Fatal(err)
		}
		return states[webhook.DLR].Fails(e)
	}
	a.attempt("http 404")
	b.sync(t.Context())
	if !fails(before) || fails(after) {
		t.Errorf("the URL that was called fails: %v, the new one: %v", fails(before), fails(after))
	}
	g.produced = nil
	g.url, g.now = "https://example.com:8443/y", noon.Add(time.Minute)
	a.attempt("http 500")
	b.attempt("timeout") // before it has read what a stored
	g.want("1m0s failing " + value("12:01:00", `"http 500"`, 1))
	if fails(before) || !fails(after) {
		t.Errorf("the former URL fails: %v, the new one: %v", fails(before), fails(after))
	}
	b.sync(t.Context())
	b.attempt("")
	g.want("1m0s recovered " + value("12:01:00", `"timeout"`, 2))
}

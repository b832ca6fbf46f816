package webhook

import (
	"fmt"
	"testing"
)

func TestNames(t *testing.T) {
	if got := fmt.Sprint(Kinds()); got != "[dlr click inbound revoke_click]" {
		t.Errorf("kinds %s", got)
	}
	if got := fmt.Sprint(Fates()); got != "[delivered retry overflow dead not_configured filtered duplicate batched paused released superseded]" {
		t.Errorf("fates %s", got)
	}
	if got := fmt.Sprint(Results()); got != "[ok failed timeout error blocked]" {
		t.Errorf("results %s", got)
	}
	if got := fmt.Sprint(Kind(99), Fate(99), Result(99)); got != "unknown unknown unknown" {
		t.Errorf("out of range: %s", got)
	}
}

func TestKinds(t *testing.T) {
	const form, json = "application/x-www-form-urlencoded", "application/json"
	types := [NumKinds]string{form, form, form, json}
	for i, k := range Kinds() {
		if int(k) != i {
			t.Errorf("%v is at %d", k, i)
		}
		if got, err := ParseKind(k.String()); err != nil || got != k {
			t.Errorf("ParseKind(%q) = %v, %v", k, got, err)
		}
		if k.ContentType() != types[i] || k.HasWindow() != (k != RevokeClick) {
			t.Errorf("%v: %s, window %v", k, k.ContentType(), k.HasWindow())
		}
	}
	for _, s := range []string{"", "DLR", "unknown"} {
		if _, err := ParseKind(s); err == nil {
			t.Errorf("ParseKind(%q) returned no error", s)
		}
	}
}

func TestResultOfFailure(t *testing.T) {
	tests := map[Failure]Result{
		"":                OK,
		HTTPFailure(503):  Failed,
		"http 302":        Failed,
		Timeout:           TimedOut,
		BlockedAddress:    Blocked,
		ConnectionRefused: Errored,
		ConnectionReset:   Errored,
		DNS:               Errored,
		TLS:               Errored,
		Network:           Errored,
	}
	for f, want := range tests {
		if got := f.Result(); got != want {
			t.Errorf("%q: %v, want %v", f, got, want)
		}
	}
	if HTTPFailure(503) != "http 503" {
		t.Errorf("HTTPFailure(503) = %q", HTTPFailure(503))
	}
}

package main

import (
	"context"
	"io"
	"net/netip"
	"net/url"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/smshooks/smshooks/pkg/webhook"
	"github.com/smshooks/smshooks/tools/bench/receiver"
	"github.com/smshooks/smshooks/tools/bench/result"
)

func TestRecord(t *testing.T) {
	value := newRecord(7, 42, receiver.Mark+"1772200000000000000")
	if len(value) < 650 || len(value) > 750 {
		t.Errorf("%d bytes, want about 700", len(value))
	}
	var m webhook.Message
	if err := webhook.Decode(webhook.DLR, value, &m); err != nil {
		t.Fatal(err)
	}
	if m.UserID != 42 || m.ID(value) != "1000000007" {
		t.Errorf("user %d, id %s", m.UserID, m.ID(value))
	}
	if body := string(m.AppendBody(nil, value)); !strings.Contains(body, receiver.Mark+"1772200000000000000") {
		t.Errorf("the mark was changed in %s", body)
	}
}

func TestOwnHosts(t *testing.T) {
	target := &target{addr: "127.0.0.1:4000"}
	seen := make(map[string]bool)
	for user := 1; user <= 70_000; user++ {
		u, err := url.Parse(target.ownHost(user))
		if err != nil {
			t.Fatal(err)
		}
		if addr, err := netip.ParseAddr(u.Hostname()); err != nil || !addr.IsLoopback() || u.Port() != "4000" {
			t.Fatalf("user %d: %s", user, u)
		}
		seen[u.Host] = true
	}
	if len(seen) != 70_000 {
		t.Errorf("%d hosts for 70,000 users", len(seen))
	}
}

func TestChoice(t *testing.T) {
	all, err := choice(nil)
	if err != nil || len(all) != len(scenarioNames()) || len(all) != 9 {
		t.Errorf("%d scenarios by default, %v", len(all), err)
	}
	some, err := choice([]string{"tls", "throughput"})
	if err != nil || len(some) != 2 || some[0].name != "throughput" {
		t.Errorf("chosen %v, %v", some, err)
	}
	if _, err := measure(context.Background(), options{Scenarios: []string{"speed"}, Runs: 1}); err == nil || !strings.Contains(err.Error(), "throughput") {
		t.Errorf("an unknown scenario: %v", err)
	}
}

func TestEnviron(t *testing.T) {
	t.Setenv("SMSHOOKS_KAFKA_GROUP", "mine")
	t.Setenv("GOGC", "200")
	vars := environ()
	if slices.Contains(vars, "SMSHOOKS_KAFKA_GROUP=mine") || !slices.Contains(vars, "GOGC=200") {
		t.Errorf("children get %v", vars)
	}
}

func TestPeers(t *testing.T) {
	names := func(plugin string) (subjects []string, leftOut int) {
		b := &bench{options: options{ConnectPlugin: plugin, Out: io.Discard}}
		b.findPeers(t.Context())
		for _, p := range b.peers {
			subjects = append(subjects, p.subject)
		}
		return subjects, len(b.leftOut)
	}
	if got, left := names("/plugin"); !slices.Equal(got, []string{benthos, benthosIdle, connect}) || left != 0 {
		t.Errorf("peers %v, %d left out", got, left)
	}
	if got, left := names(""); !slices.Equal(got, []string{benthos, benthosIdle}) || left != 1 {
		t.Errorf("peers %v without a plugin, %d left out", got, left)
	}
	t.Setenv("PATH", "/nonexistent") // no Go
	if got, left := names("/plugin"); !slices.Equal(got, []string{connect}) || left != 1 {
		t.Errorf("peers %v outside of a checkout, %d left out", got, left)
	}
}

func TestCases(t *testing.T) {
	run := func(context.Context) (result.Figures, error) { return result.Figures{result.CPU: 1}, nil }
	for pattern, want := range map[string]int{"": 3, "1,000": 2, "^smshooks, 1,000$": 1, "quarter": 0} {
		b := &bench{options: options{Runs: 1, Out: io.Discard}, cases: regexp.MustCompile(pattern)}
		s := new(result.Scenario)
		err := b.alternate(t.Context(), s, contest{ours, "half", run}, contest{ours, "1,000", run}, contest{hand, "1,000", run})
		if err != nil || len(s.Rows) != want {
			t.Errorf("%q: %d rows, %v, want %d", pattern, len(s.Rows), err, want)
		}
	}
}

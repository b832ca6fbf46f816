package real_test

import (
	"encoding/base64"
	"fmt"
	"strings"
	"testing"

	"github.com/smshooks/smshooks/test/real/harness"
)

// TestReseal replaces secrets.key as documented in docs/operations.md. The service must know every user all the time,
// and in the end an instance with only the new key must know them, too.
func TestReseal(t *testing.T) {
	t.Parallel()
	key := func(letter string) string {
		return base64.StdEncoding.EncodeToString([]byte(strings.Repeat(letter, 32)))
	}
	before, after := key("o"), key("n")
	harness.Secret(before)
	harness.Secret(after)
	e := newEnv(t)
	e.configure(t, map[int64]harness.Webhook{1: e.all(1, "u1:hush"), 2: e.all(2, "")})
	apiKey := e.newKey(t, 3)
	p := e.serve(t, "--secrets.key="+before)
	harness.Eventually(t, harness.Patience, func() bool {
		return post(t, p.Addr, apiKey, "/v1/user/set-webhook", "dlr_url="+e.recv.URL("/dlr/3")+"&auth=u3:hush") == 200
	}, "user 3 has credentials")
	p.Kill()

	both := []string{"--secrets.key=" + after, "--secrets.previous_keys=" + before}
	e.serve(t, both...)
	for _, c := range []struct {
		name, want string
		flags      []string
	}{
		{"dry", "dry run, nothing written; without --dry-run:\n3 documents: 2 resealed, 0 already current, 1 without credentials, 0 sealed with", append([]string{"--dry-run"}, both...)},
		{"first", "3 documents: 2 resealed, 0 already current, 1 without credentials, 0 sealed with", both},
		{"again", "3 documents: 0 resealed, 2 already current, 1 without credentials, 0 sealed with", both},
		{"another key", "3 documents: 0 resealed, 0 already current, 1 without credentials, 2 sealed with", []string{"--secrets.key=" + key("x")}},
	} {
		out, stderr, code := harness.Run(t, e.options(c.flags...), "secrets", "reseal")
		if code != 0 || !strings.HasPrefix(out, c.want) {
			t.Errorf("%s: exit code %d, %q, want %q; %s", c.name, code, out, c.want, stderr)
		}
	}
	if _, stderr, code := harness.Run(t, e.options(), "secrets", "reseal"); code != 2 || !strings.Contains(stderr, "secrets.key") {
		t.Errorf("without a key: exit code %d, %s", code, stderr)
	}
	alone := e.serve(t, "--secrets.key="+after)
	e.emit(t, e.dlr(1, 1), e.dlr(3, 1))
	for _, user := range []int64{1, 3} {
		got := e.recv.WaitCount(t, path("dlr", user), 1, harness.Patience)[0]
		name, password, ok := parseBasic(got.Header.Get("Authorization"))
		if !ok || name != fmt.Sprint("u", user) || password != "hush" {
			t.Errorf("user %d: Authorization %q", user, got.Header.Get("Authorization"))
		}
	}
	if log := alone.Log(); strings.Contains(log, "another secrets.key") {
		t.Errorf("resealed records are reported as unreadable:\n%s", log)
	}
}

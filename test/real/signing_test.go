package real_test

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"net/http"
	"os/exec"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/smshooks/smshooks/test/real/harness"
)

// verifier is a program for Node with the official library. It reads a JSON object per line, and prints ok or the
// error.
const verifier = `
const { Webhook } = require("standardwebhooks");
require("readline").createInterface({ input: process.stdin }).on("line", (line) => {
  const { secret, headers, body } = JSON.parse(line);
  try { new Webhook(secret).verify(body, headers); } catch (e) {
    // The library parses the body as JSON after it has verified the signature; a form is not JSON.
    if (!(e instanceof SyntaxError)) { console.log(e.message); return; }
  }
  console.log("ok");
});
`

// verify checks requests with the library, each with one secret.
func verify(t *testing.T, secrets []string, requests []harness.Request) []string {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	dir := t.TempDir()
	install := exec.CommandContext(ctx, "npm", "install", "--prefix", dir, "--no-audit", "--no-fund", "--ignore-scripts", "standardwebhooks@1.0.0")
	install.Dir = dir
	if out, err := install.CombinedOutput(); err != nil {
		t.Fatalf("npm: %v\n%s", err, out)
	}
	var input strings.Builder
	for i, r := range requests {
		headers := map[string]string{}
		for name := range r.Header {
			headers[strings.ToLower(name)] = r.Header.Get(name)
		}
		line, err := json.Marshal(map[string]any{"secret": secrets[i], "headers": headers, "body": string(r.Body)})
		if err != nil {
			t.Fatal(err)
		}
		fmt.Fprintf(&input, "%s\n", line)
	}
	cmd := exec.CommandContext(ctx, "node", "-e", verifier)
	cmd.Dir, cmd.Stdin = dir, strings.NewReader(input.String())
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("node: %v", err)
	}
	return strings.Split(strings.TrimSpace(string(out)), "\n")
}

// ask makes a request to the API and decodes the data of a reply of 200.
func ask(t testing.TB, p *harness.Proc, method, key, path, form string, data any) int {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), harness.Patience)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, method, "http://"+p.Addr+path, strings.NewReader(form))
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("X-API-KEY", key)
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	var reply struct{ Data json.RawMessage }
	if err := json.NewDecoder(resp.Body).Decode(&reply); err != nil {
		t.Fatalf("%s: %d, %v", path, resp.StatusCode, err)
	}
	if resp.StatusCode == http.StatusOK && data != nil {
		if err := json.Unmarshal(reply.Data, data); err != nil {
			t.Fatal(err)
		}
	}
	return resp.StatusCode
}

// TestSigning checks that requests, including tests, carry the time of the event and signatures that the official
// library for Node accepts, of both secrets during the grace. No secret may be in clear in Kafka or Redis, or in the
// log.
func TestSigning(t *testing.T) {
	t.Parallel()
	w := newEnv(t)
	w.configure(t, map[int64]harness.Webhook{1: w.all(1, "u:hush"), 2: w.all(2, "")})
	key := w.newKey(t, 1)
	p := w.serve(t, "--secrets.key="+base64.StdEncoding.EncodeToString([]byte(strings.Repeat("k", 32))))
	rotate := func(form string) string {
		t.Helper()
		var reply struct {
			Secret             string
			PreviousValidUntil *string `json:"previous_valid_until"`
		}
		harness.Eventually(t, harness.Patience, func() bool {
			return ask(t, p, http.MethodPost, key, "/v1/user/webhook-secret/rotate", form, &reply) == http.StatusOK
		}, "the secret is rotated")
		harness.Secret(reply.Secret)
		return reply.Secret
	}
	before := w.emit(t, w.dlr(1, 1), w.dlr(2, 1))
	w.recv.WaitCount(t, path("dlr", 1), 1, harness.Patience)
	first := rotate("")
	harness.Settle()
	w.emit(t, w.dlr(1, 2))
	w.recv.WaitCount(t, path("dlr", 1), 2, harness.Patience)
	second := rotate("grace=1h")
	harness.Settle()
	w.emit(t, w.dlr(1, 3), w.dlr(2, 2))
	w.recv.WaitCount(t, path("dlr", 2), 2, harness.Patience)
	got := w.recv.WaitCount(t, path("dlr", 1), 3, harness.Patience)
	if status := post(t, p.Addr, key, "/v1/user/test-webhook", ""); status != http.StatusOK {
		t.Fatalf("test-webhook: %d", status)
	}
	tested := w.recv.WaitCount(t, path("revoke", 1), 1, harness.Patience)[0]

	for i, n := range []int{0, 1, 2} {
		if signatures := strings.Fields(got[i].Header.Get("Webhook-Signature")); len(signatures) != n {
			t.Errorf("request %d: %d signatures, want %d", i, len(signatures), n)
		}
	}
	if want := before[0].Timestamp.UTC().Format("2006-01-02T15:04:05.000Z"); got[0].Header.Get("Webhook-Event-Time") != want {
		t.Errorf("Webhook-Event-Time %q, want %s", got[0].Header.Get("Webhook-Event-Time"), want)
	}
	for _, r := range w.recv.Requests(path("dlr", 2)) {
		if _, signed := r.Header["Webhook-Signature"]; signed {
			t.Error("a request of a user without a secret is signed")
		}
	}
	forged := got[2]
	forged.Body = append([]byte("x"), forged.Body...)
	secrets := []string{first, second, first, second, second, second, first}
	requests := []harness.Request{got[1], got[2], got[2], tested, got[1], forged, tested}
	accepted := []bool{true, true, true, true, false, false, true}
	for i, answer := range verify(t, secrets, requests) {
		if (answer == "ok") != accepted[i] {
			t.Errorf("request %d: the library prints %q", i, answer)
		}
	}
	for _, r := range harness.Consume(t, w.kafka.Addr, w.topics.Config) {
		if strings.Contains(string(r.Value), "whsec_") {
			t.Errorf("a secret in clear at offset %d", r.Offset)
		}
	}
	if status := post(t, p.Addr, key, "/v1/user/webhook-secret/clear", ""); status != http.StatusOK {
		t.Fatalf("clear: %d", status)
	}
	harness.Settle()
	w.emit(t, w.dlr(1, 4))
	// The fourth request was the test.
	if last := w.recv.WaitCount(t, path("dlr", 1), 5, harness.Patience)[4]; last.Header.Get("Webhook-Signature") != "" {
		t.Error("a request is signed after the secrets were cleared")
	}
	if strings.Contains(p.Log(), "whsec_") {
		t.Error("a secret is in the log")
	}
}

// TestRacingSettings checks that concurrent PATCH and set-webhook requests at two instances lose nothing.
func TestRacingSettings(t *testing.T) {
	t.Parallel()
	w := newEnv(t)
	key := w.newKey(t, 1)
	instances := []*harness.Proc{w.serve(t), w.serve(t)}
	urls := []string{"dlr_url", "click_url", "inbound_url", "revoke_click_url"}
	statuses := []string{"Delivered", "Pending", "Failed", "Rejected", "Expired", "Unknown"}
	for round := range 6 {
		hook := fmt.Sprintf("http://example.com/%d", round)
		var wg sync.WaitGroup
		change := func(i int, method, path, form string) {
			wg.Go(func() {
				harness.Eventually(t, harness.Patience, func() bool { return ask(t, instances[i%2], method, key, path, form, nil) == http.StatusOK }, "%s", form)
			})
		}
		for i, name := range urls {
			change(i, http.MethodPost, "/v1/user/set-webhook", name+"="+hook)
		}
		change(round, http.MethodPatch, "/v1/user/webhook-settings", "dlr_statuses="+statuses[round])
		change(round+1, http.MethodPost, "/v1/user/webhook-secret/rotate", "grace=0s")
		wg.Wait()
		for _, p := range instances {
			set, further := map[string]any{}, map[string]any{}
			harness.Eventually(t, harness.Patience, func() bool {
				return ask(t, p, http.MethodGet, key, "/v1/user/get-webhook", "", &set) == http.StatusOK &&
					ask(t, p, http.MethodGet, key, "/v1/user/webhook-settings", "", &further) == http.StatusOK
			}, "the settings are returned")
			for _, name := range urls {
				if set[name] != hook {
					t.Errorf("round %d: %s is %v, want %s", round, name, set[name], hook)
				}
			}
			if fmt.Sprint(further["dlr_statuses"]) != "["+statuses[round]+"]" || further["signing"] != true {
				t.Errorf("round %d: further settings %v", round, further)
			}
		}
	}
}

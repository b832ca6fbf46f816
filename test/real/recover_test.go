package real_test

import (
	"fmt"
	"net/http"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/smshooks/smshooks/test/real/harness"
)

// recoverDelay is the step of the schedule in TestRecover: long enough that a recovery ends well before it.
const recoverDelay = 60 * time.Second

// recovery is the latest recovery of a user as the API shows it.
type recovery struct {
	ID       string
	State    string
	Released int
	Started  time.Time
	Ended    *time.Time
}

// secondAttempts waits until each of n events of a user has had its second attempt, numbered, and none a third.
func (e *env) secondAttempts(t testing.TB, user int64, n int, within time.Duration) (first time.Time) {
	t.Helper()
	got := e.recv.WaitCount(t, path("dlr", user), 2*n, within)
	numbers := map[string]string{}
	for _, r := range got {
		numbers[r.Header.Get("Webhook-Id")] += r.Header.Get("Webhook-Attempt")
		if r.Header.Get("Webhook-Attempt") == "2" && (first.IsZero() || r.Start.Before(first)) {
			first = r.Start
		}
	}
	if len(numbers) != n || len(got) != 2*n {
		t.Errorf("user %d: %d requests about %d events, want %d about %d", user, len(got), len(numbers), 2*n, n)
	}
	for id, sequence := range numbers {
		if sequence != "12" {
			t.Errorf("user %d, event %s: attempts %s, want 1 and 2", user, id, sequence)
		}
	}
	return first
}

// TestRecover checks that events that wait for their second attempt get it at once when the user or an operator
// requests it, under its number and never twice. The records left behind must be released when their delay ends. Other
// users' events wait as usual.
func TestRecover(t *testing.T) {
	t.Parallel()
	const events = 40
	e := newEnv(t, "--retry.schedule="+recoverDelay.String()+","+recoverDelay.String())
	users := map[int64]harness.Webhook{}
	for user := int64(1); user <= 4; user++ {
		users[user] = e.all(user, "")
	}
	// The fourth one has its own host.
	users[4] = harness.Webhook{DLR: strings.Replace(e.recv.URL(path("dlr", 4)), "127.0.0.1", "localhost", 1)}
	e.configure(t, users)
	key := e.newKey(t, 1)
	p, q := e.serve(t), e.serve(t)
	var records []*kgo.Record
	for user := int64(1); user <= 4; user++ {
		e.recv.On(path("dlr", user), harness.Status(503))
		for i := range int64(events) {
			records = append(records, e.dlr(user, i+1))
		}
	}
	e.emit(t, records...)
	for user := int64(1); user <= 4; user++ {
		e.recv.WaitCount(t, path("dlr", user), events, harness.Patience)
	}
	failed := time.Now()
	for user := int64(1); user <= 4; user++ {
		e.waitStored(t, harness.Retry(e.topics.DLR, "1m"), user, events, harness.Patience)
		e.recv.On(path("dlr", user), harness.Status(200))
	}

	e.wantRecovery(t, p, q, key, events)
	e.wantRelease(t, 2, events, "--user=2", "--kind=dlr", "--error=http 503")
	e.wantRelease(t, 4, events, "--host=localhost")
	if _, stderr, code := harness.Run(t, e.options(), "retry", "release", "--host=nobody.example"); code != 1 || !strings.Contains(stderr, "no URL has this host") {
		t.Errorf("an unknown host: exit code %d, %s", code, stderr)
	}
	if n := e.recv.Count(path("dlr", 3)); n != events {
		t.Errorf("%d requests of another user, want %d", n, events)
	}
	first := e.secondAttempts(t, 3, events, recoverDelay+harness.Patience)
	if after := first.Sub(failed); after < recoverDelay-10*time.Second {
		t.Errorf("another user's second attempt came %v after the failure", after)
	}
	released := func() float64 {
		return p.Metrics(t).Sum("smshooks_settled_total", "fate", "released") + q.Metrics(t).Sum("smshooks_settled_total", "fate", "released")
	}
	harness.Eventually(t, harness.Patience, func() bool { return released() == 3*events }, "what was left behind is released")
	harness.Pass(2 * time.Second)
	for user := int64(1); user <= 4; user++ {
		e.secondAttempts(t, user, events, harness.Patience)
	}
	p.WaitBalanced(t, 1, harness.Patience)
	q.WaitBalanced(t, 0, harness.Patience)
}

// wantRecovery recovers the events of user 1 by the API of p, and checks their second attempts and the recovery at q.
func (e *env) wantRecovery(t testing.TB, p, q *harness.Proc, key string, events int) {
	t.Helper()
	var begun, latest recovery
	asked := time.Now()
	if status := ask(t, p, http.MethodPost, key, "/v1/user/recover", "", &begun); status != http.StatusOK || !strings.HasPrefix(begun.ID, "rcv_") {
		t.Fatalf("recover: %d, %+v", status, begun)
	}
	if first := e.secondAttempts(t, 1, events, harness.Patience); first.Sub(asked) > 10*time.Second+harness.Slack(asked) {
		t.Errorf("the first attempt came %v after the request", first.Sub(asked))
	} else {
		t.Logf("the first attempt came %v after the request", first.Sub(asked))
	}
	harness.Eventually(t, harness.Patience, func() bool {
		return ask(t, q, http.MethodGet, key, "/v1/user/recover", "", &latest) == http.StatusOK && latest.State == "done"
	}, "the recovery is done")
	if latest.ID != begun.ID || latest.Released != events || latest.Ended == nil || latest.Ended.Before(latest.Started) {
		t.Errorf("the recovery is shown as %+v", latest)
	}
}

// wantRelease runs retry release, dry and then for good, and checks the second attempts of the user's events.
func (e *env) wantRelease(t testing.TB, user int64, events int, selection ...string) {
	t.Helper()
	args := append([]string{"retry", "release"}, selection...)
	if out, stderr, code := harness.Run(t, e.options(), append(args, "--dry-run")...); code != 0 || out != fmt.Sprintf("%d would be released\n", events) {
		t.Errorf("%v --dry-run: exit code %d, %s%s", args, code, out, stderr)
	}
	out, stderr, code := harness.Run(t, e.options(), args...)
	if code != 0 || !regexp.MustCompile(fmt.Sprintf(`^rcv_\w+\n%d released\n$`, events)).MatchString(out) {
		t.Errorf("%v: exit code %d, %s%s", args, code, out, stderr)
	}
	e.secondAttempts(t, user, events, harness.Patience)
	if out, _, code := harness.Run(t, e.options(), append(args, "--dry-run")...); code != 0 || out != "0 would be released\n" {
		t.Errorf("%v --dry-run, once more: exit code %d, %s", args, code, out)
	}
}

// TestRecoverWithOtherSettings checks that a recovery ends even if it names delay topics that no instance knows, because
// the command that began it has another schedule.
func TestRecoverWithOtherSettings(t *testing.T) {
	t.Parallel()
	for _, protocol := range []string{"classic", "consumer"} {
		t.Run(protocol, func(t *testing.T) {
			t.Parallel()
			e := newEnv(t, "--retry.schedule="+recoverDelay.String()+","+recoverDelay.String())
			e.configure(t, map[int64]harness.Webhook{1: e.all(1, "")})
			e.recv.On(path("dlr", 1), firstFails())
			e.serve(t, "--kafka.group_protocol="+protocol)
			e.emit(t, e.dlr(1, 1))
			e.waitStored(t, harness.Retry(e.topics.DLR, "1m"), 1, 1, harness.Patience)
			other := e.options("--retry.drain=77s")
			harness.Ensure(t, other)
			out, stderr, code := harness.Run(t, other, "retry", "release", "--user=1")
			if code != 0 || !regexp.MustCompile(`^rcv_\w+\n1 released\n$`).MatchString(out) {
				t.Errorf("exit code %d, %s%s", code, out, stderr)
			}
			e.secondAttempts(t, 1, 1, harness.Patience)
		})
	}
}

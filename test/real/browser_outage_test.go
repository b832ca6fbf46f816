package real_test

import (
	"net/http"
	"net/url"
	"strings"
	"syscall"
	"testing"

	"github.com/smshooks/smshooks/test/real/harness"
)

// whole is the script for all text of the page.
const whole = "document.body.innerText"

// TestAccountPageInOutages shows what a user sees while the service cannot answer or has not finished: a recovery that
// runs, the views without Kafka, and those without Redis.
func TestAccountPageInOutages(t *testing.T) {
	t.Parallel()
	e := ownEnv(t, true, true, "--retry.schedule=6h,6h", "--kafka.session_timeout=5m")
	owner := e.serve(t)
	key := e.newKey(t, 42)
	e.configure(t, map[int64]harness.Webhook{42: {DLR: e.recv.URL("/dlr/42")}})
	harness.Settle()
	e.recv.On("/dlr/42", harness.Status(503))
	id := identity(e.emit(t, e.dlr(42, 1))[0])
	b := newTab(t)
	page := "http://" + owner.Addr + pagePath
	b.open(page)
	b.fill("key", key)
	b.leave("form button")
	b.openUntil(page, text("banner"), "1 event waits")
	event := "/events/" + url.PathEscape(id)

	// The owner of the partition stops, so that the recovery lasts. Its group waits for it; the other member has a page.
	owner.Signal(t, syscall.SIGSTOP)
	other := harness.Start(t, e.options())
	harness.Eventually(t, harness.Patience, other.Alive, "the other member listens")
	page2 := "http://" + other.Addr + pagePath
	b.openUntil(page2+event, text("event-state"), "waiting")
	b.leave("#recover")
	b.see(text("messages"), "are sent now")
	b.see(text("event"), "0 events released so far")
	b.accessible("an event whose recovery runs")
	b.openUntil(page2, text("recovery"), "0 events released so far")
	b.accessible("a recovery that runs")
	e.recv.On("/dlr/42", harness.Status(http.StatusOK))
	owner.Signal(t, syscall.SIGCONT)
	e.recv.WaitCount(t, "/dlr/42", 2, harness.Patience)
	b.see(text("recovery"), "1 event released, ended") // without another look: the view follows
	owner.WaitReady(t, harness.Patience)
	other.WaitReady(t, harness.Patience)

	e.kafka.Pause(t)
	b.openUntil(page+event, text("request"), "The request is temporarily unavailable.")
	b.accessible("an event without Kafka")
	b.openUntil(page+"?period=1d", text("dead-letters"), "temporarily unavailable")
	b.accessible("overview without Kafka")
	e.kafka.Unpause(t)

	list := e.topics.KeyPrefix + "deliveries:42"
	rdb := e.redis.Client(t)
	if err := rdb.Set(t.Context(), list, "not a list", 0).Err(); err != nil {
		t.Fatal(err)
	}
	for name, path := range map[string]string{"overview": "", "deliveries": "/deliveries", "an event": event} {
		b.openUntil(page+path, whole, "Your deliveries are temporarily unavailable.")
		b.accessible(name + " without the delivery log")
	}
	if err := rdb.Del(t.Context(), list).Err(); err != nil {
		t.Fatal(err)
	}

	// Credentials that no key of this installation has sealed.
	e.configure(t, map[int64]harness.Webhook{42: {DLR: e.recv.URL("/dlr/42"), Auth: "enc:v1:" + strings.Repeat("AAAA", 16)}})
	b.openUntil(page, whole, "Your settings are temporarily unavailable.")
	b.accessible("overview without settings")
	b.openUntil(page+"/settings", whole, "Your settings are temporarily unavailable.")
	b.accessible("settings that cannot be read")

	e.redis.Stop(t)
	b.openUntil(page, whole, "The service is temporarily unavailable.")
	b.accessible("a view without Redis")
	b.clean()

	b = newTab(t)
	b.open(page)
	b.fill("key", key)
	b.leave("form button")
	b.see(whole, "The service is temporarily unavailable.")
	b.accessible("sign-in without Redis")
	b.clean()
}

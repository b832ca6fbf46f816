package real_test

import (
	"fmt"
	"net"
	"net/http"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/smshooks/smshooks/test/real/harness"
)

// soonFor is the time limit for a first call while any number of endpoints hang: a second, by contract, and another one
// for the way through Kafka on a busy machine.
const soonFor = 2 * time.Second

// TestHungEndpointsAndDescriptors checks that with 1,024 descriptors and 351 users whose server never answers, new
// users' receipts are delivered soon, at their first attempt.
func TestHungEndpointsAndDescriptors(t *testing.T) {
	t.Parallel()
	e := newEnv(t, "--overflow.delays=10s")
	const hung, healthy = 351, 20
	users := map[int64]harness.Webhook{}
	for user := int64(1); user <= hung+healthy; user++ {
		users[user] = harness.Webhook{DLR: e.recv.URL(path("dlr", user))}
		if user <= hung {
			e.recv.On(path("dlr", user), harness.Hang())
		}
	}
	e.configure(t, users)
	o := e.options()
	o.OpenFiles = 1024
	p := harness.StartReady(t, o)
	p.WaitLog(t, harness.Patience, `"limit":1024`)
	var load []*kgo.Record
	for user := int64(1); user <= hung; user++ {
		for i := range int64(3) {
			load = append(load, e.dlr(user, i))
		}
	}
	e.emit(t, load...)
	// The hanging endpoints have taken all slots that they can get.
	most := p.WaitMetric(t, harness.Patience, harness.AtLeast(300), "smshooks_in_flight_requests")
	for user := int64(hung + 1); user <= hung+healthy; user++ {
		began := time.Now()
		records := e.emit(t, e.dlr(user, 1))
		harness.Eventually(t, soonFor+5*time.Second+harness.Slack(began), func() bool { return len(e.recv.Requests(path("dlr", user))) > 0 },
			"user %d's receipt is delivered while %v requests hang", user, most)
		if got := e.recv.Requests(path("dlr", user))[0]; got.Header.Get("Webhook-Attempt") != "1" || got.Header.Get("Webhook-Id") != identity(records[0]) {
			t.Errorf("user %d: attempt %s of %s", user, got.Header.Get("Webhook-Attempt"), got.Header.Get("Webhook-Id"))
		}
	}
	m := p.Metrics(t)
	if n := m.Sum("smshooks_local_errors_total"); n != 0 {
		t.Errorf("%v requests failed for lack of descriptors", n)
	}
	if n := m.Sum("smshooks_attempts_total", "result", "error"); n != 0 {
		t.Errorf("%v attempts ended with a network error", n)
	}
}

// TestFirstCallsAfterRestart lets 3,000 endpoints hang. After a restart nothing is known of any endpoint, but the first
// call to a new one must still be made within a second.
func TestFirstCallsAfterRestart(t *testing.T) {
	t.Parallel()
	e := newEnv(t, "--overflow.delays=10s", "--shutdown.grace=1s")
	const hung, healthy = 3000, 60
	const last = hung + healthy + 1
	users := map[int64]harness.Webhook{}
	for user := int64(1); user <= last; user++ {
		users[user] = harness.Webhook{DLR: e.recv.URL(path("dlr", user))}
		if user <= hung {
			e.recv.On(path("dlr", user), harness.Hang())
		}
	}
	e.configure(t, users)
	var load []*kgo.Record
	for i := range int64(2) {
		for user := int64(1); user <= hung; user++ {
			load = append(load, e.dlr(user, i))
		}
	}
	e.emit(t, load...)
	full := harness.AtLeast(1000)
	p := e.serve(t)
	p.WaitMetric(t, time.Minute, full, "smshooks_in_flight_requests")
	p.Term(t)
	p = e.serve(t)
	p.WaitMetric(t, time.Minute, full, "smshooks_in_flight_requests")
	// Each partition has been read up to the healthy user's record behind the load.
	for partition := range int32(partitions) {
		harness.Produce(t, e.kafka.Addr, e.topics.DLR, partition, strconv.Itoa(last), harness.DLRValue(last, int64(partition)))
	}
	e.recv.WaitCount(t, path("dlr", last), partitions, harness.Patience)
	began := time.Now()
	sent := map[int64]time.Time{}
	for user := int64(hung + 1); user <= hung+healthy; user++ {
		sent[user] = time.Now()
		e.emit(t, e.dlr(user, 1))
	}
	slack := harness.Slack(began)
	for user, at := range sent {
		got := e.recv.WaitCount(t, path("dlr", user), 1, harness.Patience)[0]
		if after := got.Start.Sub(at); after > soonFor+slack {
			t.Errorf("user %d's first call %v after its event, want at most %v and %v for the machine", user, after, soonFor, slack)
		}
	}
}

// TestIdleConnectionsToTheAPI checks that with 300 descriptors, 400 idle connections to the API take none from
// deliveries or from other clients of the API.
func TestIdleConnectionsToTheAPI(t *testing.T) {
	t.Parallel()
	e := newEnv(t)
	users := map[int64]harness.Webhook{}
	for user := int64(1); user <= 40; user++ {
		users[user] = harness.Webhook{DLR: e.recv.URL(path("dlr", user))}
	}
	e.configure(t, users)
	o := e.options()
	o.OpenFiles = 300
	p := harness.StartReady(t, o)
	for range 400 {
		c, err := net.DialTimeout("tcp", p.Addr, 5*time.Second)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = c.Close() })
	}
	var load []*kgo.Record
	for user := int64(1); user <= 40; user++ {
		load = append(load, e.dlr(user, 1), e.dlr(user, 2))
	}
	e.emit(t, load...)
	p.WaitMetric(t, harness.Patience, harness.Exactly(80), "smshooks_settled_total", "fate", "delivered")
	client := http.Client{Timeout: 10 * time.Second, Transport: &http.Transport{DisableKeepAlives: true}}
	for range 5 {
		resp, err := client.Get("http://" + p.Addr + "/openapi.yaml")
		if err != nil {
			t.Fatalf("the API beside 400 idle connections: %v", err)
		}
		_ = resp.Body.Close()
		if resp.StatusCode != http.StatusOK {
			t.Errorf("the API beside 400 idle connections: %d", resp.StatusCode)
		}
	}
	if n := p.Metrics(t).Sum("smshooks_local_errors_total"); n != 0 {
		t.Errorf("%v requests failed for lack of descriptors", n)
	}
	if strings.Contains(p.Log(), "too many open files") {
		t.Error("the log reports too many open files")
	}
}

// TestServerThatClosesKeptConnections checks that a server that closes each connection 5 ms after its reply,
// unannounced, costs no attempt.
func TestServerThatClosesKeptConnections(t *testing.T) {
	t.Parallel()
	e := newEnv(t, "--retry.schedule=1h,1h")
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	srv := &http.Server{ReadHeaderTimeout: 10 * time.Second, Handler: http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		c, buf, err := http.NewResponseController(rw).Hijack()
		if err != nil {
			return
		}
		_, _ = buf.Discard(int(r.ContentLength))
		_, _ = fmt.Fprint(c, "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
		time.AfterFunc(5*time.Millisecond, func() { _ = c.Close() })
	})}
	go func() { _ = srv.Serve(l) }()
	t.Cleanup(func() { _ = srv.Close() })
	e.configure(t, map[int64]harness.Webhook{1: {DLR: "http://" + l.Addr().String() + "/"}})
	p := e.serve(t)
	var load []*kgo.Record
	for i := range int64(400) {
		load = append(load, e.dlr(1, i))
	}
	e.emit(t, load...)
	p.WaitMetric(t, harness.Patience, harness.Exactly(400), "smshooks_settled_total", "kind", "dlr", "fate", "delivered")
	if n := p.Metrics(t).Sum("smshooks_attempts_total", "result", "error"); n != 0 {
		t.Errorf("%v attempts failed", n)
	}
}

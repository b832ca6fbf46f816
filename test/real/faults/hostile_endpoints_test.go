package faults_test

import (
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/smshooks/smshooks/test/certs"
	"github.com/smshooks/smshooks/test/names"
	"github.com/smshooks/smshooks/test/real/harness"
)

// The faulty servers listen at 127.0.0.2, which the program may reach. It may also reach 127.0.0.21, where nothing
// listens. 127.0.0.1 represents the platform's own network and stays blocked.
const outside, deaf, within = "127.0.0.2", "127.0.0.21", "127.0.0.1"

// allFailures is the contract's closed list, except "http NNN".
var allFailures = []string{"timeout", "connection refused", "connection reset", "dns", "tls", "blocked address", "network"}

// TestHostileEndpoints runs endpoints that do everything wrong beside healthy ones, some on the same host. Each attempt
// must have an outcome of the closed list within the timeout, memory must stay bounded, and the healthy endpoints must
// not be affected.
func TestHostileEndpoints(t *testing.T) {
	inTurn(t)
	const firstVice = 1001
	timeout := pick(2500*time.Millisecond, time.Second) // beside other tests, the machine may stand still for a second
	healthyUsers, rate, each := int64(100), pick(200, 500), pick(4, 30)
	f := newFaultyServer()
	// Its port is one that the harness reserves, so that no other process has it at the address of within.
	_, port, err := net.SplitHostPort(harness.FreeAddr(t))
	if err != nil {
		t.Fatal(err)
	}
	f.addr = f.listen(t, net.JoinHostPort(outside, port))
	dir := t.TempDir()
	faults := append(f.faults(), secureFaults(t, f, filepath.Join(dir, "ca.pem"))...)
	faults = append(faults, silentFaults(t)...)
	byName, wrapper := namedFaults(t, f, dir)
	faults = append(faults, byName...)

	s := newEnv(t, harness.Kafka(t).Addr, harness.Redis(t).Addr, 1,
		"--dispatch.timeout="+timeout.String(), "--dispatch.allow_networks="+outside+"/32,"+deaf+"/32")
	rec := newCase(t, "7", "hostile endpoints beside healthy ones", fmt.Sprintf("%d faults × %d events, %s", len(faults), each, loadRate(rate, pick(10*time.Second, time.Minute))))
	rec.did("%d users' endpoints hang, drip, flood, cut, lie, smuggle, redirect, have wrong certificates or names (%d by DNS); %d healthy users share their host",
		len(faults), len(byName), healthyUsers)
	s.configureFaults(t, f, faults, firstVice, healthyUsers)
	o := s.options()
	o.Binary = wrapper
	o.Env = append(o.Env, "SSL_CERT_FILE="+filepath.Join(dir, "ca.pem"), "SSL_CERT_DIR="+dir)
	p := harness.StartReady(t, o)
	before, began := p.Metrics(t), time.Now()

	var bad []*kgo.Record
	for n := range int64(each) {
		for i := range faults {
			user := firstVice + int64(i)
			bad = append(bad, harness.Event(s.topics.DLR, user, harness.DLRValue(user, n)))
		}
	}
	harness.ProduceMany(t, s.brokers, bad)
	good, most := s.healthyLoad(t, p, healthyUsers, rate, pick(10*time.Second, time.Minute))
	b := s.waitFaults(t, f, faults, firstVice, bad, good, pick(patience, 4*time.Minute))
	wantDurations(t, p, len(faults), firstVice, timeout, began)
	p.WaitBalanced(t, float64(len(bad)+len(good)), patience)
	waitRequestsEnd(t, p, before)
	if limit := 250.0 * (1 << 20); most > limit {
		t.Errorf("%.0f MiB resident", most/(1<<20))
	}
	slices.Sort(b.delays)
	p50, p99 := b.delays[len(b.delays)/2], b.delays[len(b.delays)*99/100]
	if limit := pick(time.Second, 500*time.Millisecond) + harness.Slack(began); p99 > limit {
		t.Errorf("healthy events: p50 %v, p99 %v from Kafka to the request", p50, p99)
	}
	rec.note("healthy events: p50 %v, p99 %v from Kafka to the request", p50.Round(100*time.Microsecond), p99.Round(100*time.Microsecond))
	rec.note("at most %.0f MiB resident; %.0f MiB of floods were accepted", most/(1<<20), float64(f.flooded.Load())/(1<<20))
	rec.set(func(r *result) {
		r.Produced, r.Delivered, r.Dead, r.Missing = len(bad)+len(good), b.delivered, b.dead, b.missing
		r.Duplicates, r.Unexplained, r.Beyond, r.Early = b.again, b.again, b.beyond, b.early
	})
}

// waitRequestsEnd waits until the sockets and goroutines of the attempts have ended. Connections to the healthy host
// may stay idle for a minute, and how many there are depends on how many requests were in flight at once.
func waitRequestsEnd(t *testing.T, p *harness.Proc, before harness.Metrics) {
	t.Helper()
	const fds, goroutines = "process_open_fds", "go_goroutines"
	var now harness.Metrics
	t.Cleanup(func() {
		if t.Failed() {
			t.Logf("%s: %v, at first %v; %s: %v, at first %v", fds, now.Sum(fds), before.Sum(fds), goroutines, now.Sum(goroutines), before.Sum(goroutines))
		}
	})
	harness.Eventually(t, 90*time.Second, func() bool {
		now = p.Metrics(t)
		// Hundreds of goroutines are kept for the next requests. A leak of one per attempt would be more.
		return now.Sum(fds) < before.Sum(fds)+50 && now.Sum(goroutines) < before.Sum(goroutines)+400
	}, "the attempts' sockets and goroutines have ended")
}

// secureFaults returns TLS peers that must not be trusted, and a trusted one, whose authority it writes to file.
func secureFaults(t *testing.T, f *faultyServer, file string) []fault {
	t.Helper()
	authority, err := certs.New()
	if err != nil {
		t.Fatal(err)
	}
	if err := authority.Write(file); err != nil {
		t.Fatal(err)
	}
	there := func(c *x509.Certificate) { c.IPAddresses = []net.IP{net.ParseIP(outside)} }
	at := func(cert tls.Certificate, alpn ...string) string {
		return "https://" + f.listenTLS(t, outside+":0", &tls.Config{Certificates: []tls.Certificate{cert}, NextProtos: alpn})
	}
	f.answers["/h2"] = sayAndClose("\x00\x00\x06\x04\x00\x00\x00\x00\x00\x00\x03\x00\x00\x00\x64")
	return []fault{
		{"good TLS", at(authority.Issue(t, there)) + "/tls", ""},
		{"an expired certificate", at(authority.Issue(t, func(c *x509.Certificate) { there(c); c.NotAfter = time.Now().Add(-time.Minute) })) + "/tls", "tls"},
		{"a self-signed certificate", at(certs.SelfSigned(t, there)) + "/tls", "tls"},
		{"a certificate of another host", at(authority.Issue(t, func(c *x509.Certificate) { c.DNSNames, c.IPAddresses = []string{"other.example"}, nil })) + "/tls", "tls"},
		{"HTTP/2 only", at(authority.Issue(t, there), "h2") + "/h2", "*"},
		{"a reply too many in TLS", at(authority.Issue(t, there)) + smuggler(f), "http 418"},
		{"plain HTTP on a TLS port", "https://" + f.addr + "/tls", "connection reset"},
	}
}

func smuggler(f *faultyServer) string {
	f.answers["/smuggle"] = say("HTTP/1.1 418 Mine\r\nContent-Length: 0\r\n\r\nHTTP/1.1 200 Smuggled\r\nContent-Length: 0\r\n\r\n")
	return "/smuggle"
}

// silentFaults returns ports that do not answer.
func silentFaults(t *testing.T) []fault {
	t.Helper()
	silent, err := net.Listen("tcp4", outside+":0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = silent.Close() })
	closed, err := net.Listen("tcp4", outside+":0")
	if err != nil {
		t.Fatal(err)
	}
	_ = closed.Close()
	return []fault{
		{"never accepts", "http://" + silent.Addr().String() + "/", "timeout"},
		{"never accepts, TLS", "https://" + silent.Addr().String() + "/", "timeout"},
		{"refuses", "http://" + closed.Addr().String() + "/", "connection refused"},
		{"is within", "http://" + within + ":80/", "blocked address"},
		{"is metadata", "http://169.254.169.254/latest/meta-data/", "blocked address"},
		{"is within, mapped", "http://[::ffff:127.0.0.1]:80/", "blocked address"},
	}
}

// namedFaults returns names on a DNS server of the test. The returned binary runs the program in a mount namespace with
// another /etc/resolv.conf. Without root there are no such faults.
func namedFaults(t *testing.T, f *faultyServer, dir string) (faults []fault, binary string) {
	t.Helper()
	if out, err := exec.Command("unshare", "--mount", "true").CombinedOutput(); err != nil {
		if os.Getuid() == 0 || os.Getenv("CI") != "" {
			t.Fatalf("no mount namespace for the DNS faults: %v %s", err, out)
		}
		t.Logf("without the DNS faults, which need root: %v %s", err, out)
		return nil, ""
	}
	const nameserver = "127.0.0.99"
	dns := names.Serve(t, nameserver+":53")
	_, port, _ := net.SplitHostPort(f.addr)
	late := func(d time.Duration) names.Answer {
		return func(int) names.Reply {
			return names.Reply{Addresses: []netip.Addr{netip.MustParseAddr(outside)}, After: d}
		}
	}
	dns.On("good.example", names.Always(outside))
	dns.On("late.example", late(300*time.Millisecond))
	dns.On("too-late.example", late(20*time.Second))
	dns.On("silent.example", func(int) names.Reply { return names.Reply{Silent: true} })
	dns.On("fails.example", func(int) names.Reply { return names.Reply{Fails: true} })
	dns.On("within.example", names.Always(within))
	dns.On("both.example", names.Always(deaf, within))
	dns.On("flips.example", names.Turns(outside, within))
	f.answers["/flip"] = sayAndClose("HTTP/1.1 500 No\r\nContent-Length: 0\r\n\r\n")
	resolv, wrapper := filepath.Join(dir, "resolv.conf"), filepath.Join(dir, "smshooks")
	script := fmt.Sprintf("#!/bin/sh\nexec unshare --mount sh -c 'mount --bind %s /etc/resolv.conf && exec \"$@\"' sh %s \"$@\"\n", resolv, harness.Binary(t))
	for file, text := range map[string]string{resolv: "nameserver " + nameserver + "\n", wrapper: script} {
		if err := os.WriteFile(file, []byte(text), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	inside, err := net.Listen("tcp4", net.JoinHostPort(within, port))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = inside.Close() })
	go func() {
		if _, err := inside.Accept(); err == nil {
			t.Error("a connection came in at " + within)
		}
	}()
	at := func(name, path string) string { return "http://" + name + ".example:" + port + path }
	return []fault{
		{"a good name", at("good", "/tls"), ""},
		{"a name that answers late", at("late", "/tls"), ""},
		// Attempts share a pending lookup, so the resolver's timeout may end before theirs.
		{"a name that answers too late", at("too-late", "/tls"), "timeout|dns"},
		{"a name without an answer", at("silent", "/tls"), "timeout|dns"},
		{"a name that does not exist", at("nobody", "/tls"), "dns"},
		{"a name server that fails", at("fails", "/tls"), "dns"},
		{"a name within", at("within", "/tls"), "blocked address"},
		{"a name of two addresses, one within", at("both", "/tls"), "connection refused|blocked address"},
		{"a name that flips to " + within, at("flips", "/flip"), "blocked address"},
	}, wrapper
}

// apiKey returns the API key of a user of this test.
func apiKey(user int64) string { return fmt.Sprintf("key-of-user-%d", user) }

// configureFaults creates a user and a key for each fault, and configures the healthy users.
func (s *env) configureFaults(t *testing.T, f *faultyServer, faults []fault, first, healthy int64) {
	t.Helper()
	var records []*kgo.Record
	for i, b := range faults {
		user := first + int64(i)
		harness.Secret(apiKey(user))
		records = append(records, harness.WebhookRecord(t, s.topics.Config, user, harness.Webhook{DLR: b.url}))
		sum := sha256.Sum256([]byte(apiKey(user)))
		key := harness.Event(s.topics.Keys, user, fmt.Sprintf(`{"user_id":%d,"name":"test"}`, user))
		key.Key = []byte(hex.EncodeToString(sum[:]))
		records = append(records, key)
	}
	for user := int64(1); user <= healthy; user++ {
		records = append(records, harness.WebhookRecord(t, s.topics.Config, user, harness.Webhook{DLR: fmt.Sprintf("http://%s/healthy/%d", f.addr, user)}))
	}
	harness.ProduceMany(t, s.brokers, records)
}

// healthyLoad writes events of healthy users at a steady rate. It returns them and the peak of resident memory.
func (s *env) healthyLoad(t *testing.T, p *harness.Proc, users int64, perSecond int, lasts time.Duration) (good []*kgo.Record, most float64) {
	t.Helper()
	cl := harness.Client(t, s.brokers, kgo.RequiredAcks(kgo.AllISRAcks()), kgo.ProducerLinger(0))
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	looked := time.Now()
	for began, n := time.Now(), int64(0); time.Since(began) < lasts; <-tick.C {
		for due := int64(float64(perSecond) * time.Since(began).Seconds()); n < due; n++ {
			r := harness.Event(s.topics.DLR, n%users+1, harness.DLRValue(n%users+1, n))
			good = append(good, r)
			cl.Produce(t.Context(), r, func(_ *kgo.Record, err error) {
				if err != nil {
					t.Errorf("produce: %v", err)
				}
			})
		}
		if time.Since(looked) > 500*time.Millisecond {
			looked = time.Now()
			most = max(most, p.Metrics(t).Sum("process_resident_memory_bytes"))
		}
	}
	if err := cl.Flush(t.Context()); err != nil {
		t.Fatal(err)
	}
	return good, max(most, p.Metrics(t).Sum("process_resident_memory_bytes"))
}

// faultLedger is the ledger of the case with faulty servers.
type faultLedger struct {
	schedule                                       []time.Duration
	delivered, dead, missing, again, beyond, early int
	silent, repeatedNew                            int             // requests without an answer; those repeated though they were the first of their connections
	delays                                         []time.Duration // of healthy events, from Kafka to the request
}

// waitFaults waits for the fate of every event and compares it with the expected fate of its fault.
func (s *env) waitFaults(t *testing.T, f *faultyServer, faults []fault, first int64, bad, good []*kgo.Record, timeout time.Duration) faultLedger {
	t.Helper()
	wants := func(r *kgo.Record) fault {
		user, _ := strconv.ParseInt(string(r.Key), 10, 64)
		return faults[user-first]
	}
	b := faultLedger{schedule: s.schedule}
	dead := map[string]*kgo.Record{}
	open := func() (n int) {
		for _, r := range harness.Consume(t, s.brokers, s.topics.DeadLetter) {
			dead[harness.Header(r, "smshooks-id")] = r
		}
		for _, r := range bad {
			if dead[identity(r)] == nil && (wants(r).failure != "" || len(f.hits(identity(r))) == 0) {
				n++
			}
		}
		for _, r := range good {
			if len(f.hits(identity(r))) == 0 {
				n++
			}
		}
		return n
	}
	for deadline := time.Now().Add(timeout); open() > 0 && time.Now().Before(deadline); harness.Pass(300 * time.Millisecond) {
	}
	harness.Pass(2500 * time.Millisecond) // for surplus attempts
	b.missing = open()
	for _, r := range bad {
		d, want := dead[identity(r)], wants(r)
		b.repeats(t, f.hits(identity(r)))
		switch got := ""; {
		case d == nil && want.failure == "":
			b.delivered++
		case d == nil:
			t.Errorf("%s: event %s has no dead letter", want.name, identity(r))
		default:
			b.dead++
			got = harness.Header(d, "smshooks-error")
			known := slices.Contains(allFailures, got) || strings.HasPrefix(got, "http ") && len(got) == len("http 500")
			if !known || !slices.Contains(strings.Split(want.failure, "|"), got) && want.failure != "*" || want.failure == "" || harness.Header(d, "smshooks-attempts") != "3" {
				t.Errorf("%s: a dead letter with %s, want %q", want.name, d.Headers, want.failure)
			}
		}
	}
	if b.repeatedNew > b.silent/2 {
		t.Errorf("%d of %d requests without an answer were repeated though they were the first of their connections", b.repeatedNew, b.silent)
	}
	for _, r := range good {
		hits := f.hits(identity(r))
		b.repeats(t, hits)
		if len(hits) == 0 {
			t.Errorf("healthy event %s is missing", identity(r))
			continue
		}
		b.delivered++
		if len(hits) > 1 || !strings.HasPrefix(hits[0].path, "/healthy/") {
			t.Errorf("healthy event %s: %v", identity(r), hits)
		}
		b.delays = append(b.delays, hits[0].at.Sub(r.Timestamp))
	}
	return b
}

func (b *faultLedger) repeats(t *testing.T, hits []faultyServerHit) {
	t.Helper()
	began := map[int]time.Time{}
	var before faultyServerHit
	for _, h := range hits {
		// A kept connection that ends before a reply may have ended before the request, so the request is repeated once.
		// A connection that a burst has opened and not needed is kept, too, though this is its first request.
		if before.attempt == h.attempt && before.silent && !h.kept {
			if !before.kept {
				b.repeatedNew++
			}
			before = faultyServerHit{}
			continue
		}
		before = h
		if h.silent {
			b.silent++
		}
		if !began[h.attempt].IsZero() {
			b.again++
			t.Errorf("repeated: %v", hits)
		}
		began[h.attempt] = h.at
		if n := h.attempt - 2; n >= 0 && n < len(b.schedule) && h.at.Before(began[h.attempt-1].Add(b.schedule[n]-harness.Clocks)) {
			b.early++
			t.Errorf("attempt %d is early: %v", h.attempt, hits)
		}
		if h.attempt > 3 {
			b.beyond++
			t.Errorf("attempt %d: %v", h.attempt, hits)
		}
	}
}

// wantDurations reads the deliveries of each fault and fails if an attempt took longer than the timeout.
func wantDurations(t *testing.T, p *harness.Proc, users int, first int64, timeout time.Duration, began time.Time) {
	t.Helper()
	longest, attempts := 0.0, 0
	for i := range users {
		req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "http://"+p.Addr+"/v1/user/deliveries?limit=100", nil)
		if err != nil {
			t.Fatal(err)
		}
		req.Header.Set("X-API-KEY", apiKey(first+int64(i)))
		resp, err := http.DefaultClient.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		body, err := io.ReadAll(resp.Body)
		_ = resp.Body.Close()
		var reply struct {
			Data []struct {
				Error    *string
				Duration float64
			}
		}
		if err != nil || json.Unmarshal(body, &reply) != nil || len(reply.Data) == 0 {
			t.Errorf("deliveries of user %d: %d %s", first+int64(i), resp.StatusCode, body)
			continue
		}
		for _, a := range reply.Data {
			longest = max(longest, a.Duration)
			attempts++
		}
	}
	t.Logf("%d attempts, the longest took %.3f s", attempts, longest)
	if longest > (timeout + 500*time.Millisecond + harness.Slack(began)).Seconds() {
		t.Errorf("an attempt took %.3f s, the timeout is %v", longest, timeout)
	}
}

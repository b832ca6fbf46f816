package sender

import (
	"bufio"
	"bytes"
	"compress/gzip"
	"fmt"
	"hash/fnv"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/smshooks/smshooks/pkg/webhook"
	"github.com/smshooks/smshooks/test/peer"
)

// These tests check what a raw TCP server receives and the sender's Outcome, independently of the HTTP client.

const (
	// late is how long after its timeout a request may return on a busy machine.
	late = 2 * time.Second
	// perRequest bounds what one request may allocate, whatever the reply: the limits are 16 KiB of headers and 64 KiB
	// of body.
	perRequest = 1 << 20
	emptyReply = "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"
	teapot     = "HTTP/1.1 418 Next\r\nContent-Length: 0\r\n\r\n"
	bad        = "*" // any failure of the closed list
)

// floods writes first, then piece repeatedly until the sender disconnects, and counts the bytes.
func floods(first, piece string, wrote *atomic.Int64) func(net.Conn, int32) bool {
	return func(c net.Conn, _ int32) bool {
		_, _ = io.WriteString(c, first)
		block := []byte(strings.Repeat(piece, 1+(32<<10)/len(piece)))
		for wrote.Load() < 10<<30 {
			n, err := c.Write(block)
			if wrote.Add(int64(n)); err != nil {
				return false
			}
		}
		return false
	}
}

// dripsBytes sends text one byte at a time, in an endless loop.
func dripsBytes(first, text string) func(net.Conn, int32) bool {
	return func(c net.Conn, _ int32) bool {
		_, _ = io.WriteString(c, first)
		tick := time.NewTicker(10 * time.Millisecond)
		defer tick.Stop()
		for i := 0; ; i++ {
			<-tick.C
			if _, err := c.Write([]byte{text[i%len(text)]}); err != nil {
				return false
			}
		}
	}
}

// bomb returns a gzip body of 4 KiB that decompresses to 4 MiB.
func bomb(t *testing.T) string {
	t.Helper()
	var b bytes.Buffer
	z := gzip.NewWriter(&b)
	if _, err := z.Write(make([]byte, 4<<20)); err != nil {
		t.Fatal(err)
	}
	if err := z.Close(); err != nil {
		t.Fatal(err)
	}
	return fmt.Sprintf("HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: %d\r\n\r\n%s", b.Len(), b.String())
}

type hostile struct {
	name   string
	answer func(net.Conn, int32) bool // reply to the first request; the second one gets 418
	want   webhook.Failure            // of the first; bad = any
	floods bool                       // ends at the timeout, or at a limit
}

func hostiles(t *testing.T, wrote *atomic.Int64) []hostile {
	long := strings.Repeat("x", 1000)
	rows := []hostile{
		// slow
		{"hangs before the head", peer.Hangs(""), webhook.Timeout, false},
		{"hangs in the status line", peer.Hangs("HTTP/1.1 2"), webhook.Timeout, false},
		{"hangs in the head", peer.Hangs("HTTP/1.1 200 OK\r\nContent-Le"), webhook.Timeout, false},
		{"hangs after the head", peer.Hangs("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n"), webhook.Timeout, false},
		{"hangs after the head of an error", peer.Hangs("HTTP/1.1 500 No\r\nContent-Length: 2\r\n\r\n"), "http 500", false},
		{"hangs in a chunk", peer.Hangs("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nok"), webhook.Timeout, false},
		{"hangs before the last chunk's end", peer.Hangs("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n"), webhook.Timeout, false},
		{"hangs after a chunk's length", peer.Hangs("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5"), webhook.Timeout, false},
		{"drips the head", dripsBytes("HTTP/1.1 200 OK\r\n", "X-Drip: x\r\n"), webhook.Timeout, false},
		{"drips the body", dripsBytes("HTTP/1.1 200 OK\r\nContent-Length: 1000000\r\n\r\n", "."), webhook.Timeout, false},
		{"drips chunks", dripsBytes("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", "1\r\n.\r\n"), webhook.Timeout, false},
		{"drips 100s", dripsBytes("", "HTTP/1.1 100 Continue\r\n\r\n"), webhook.Timeout, false},
		// beyond a limit
		{"10 GB", floods("HTTP/1.1 200 OK\r\nContent-Length: 10737418240\r\n\r\n", long, wrote), "", true},
		{"10 GB of an error", floods("HTTP/1.1 503 No\r\nContent-Length: 10737418240\r\n\r\n", long, wrote), "http 503", true},
		{"10 GB without a length", floods("HTTP/1.1 200 OK\r\n\r\n", long, wrote), "", true},
		{"10 GB in one chunk", floods("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n280000000\r\n", long, wrote), "", true},
		{"10 GB in small chunks", floods("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", "2\r\nok\r\n", wrote), "", true},
		{"an endless chunk extension", floods("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1;", long, wrote), bad, true},
		{"endless trailers", floods("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n", "X: y\r\n", wrote), bad, true},
		{"one header of any length", floods("HTTP/1.1 200 OK\r\nX: ", long, wrote), bad, true},
		{"headers without end", floods("HTTP/1.1 200 OK\r\n", "X: "+long+"\r\n", wrote), bad, true},
		{"a header folded without end", floods("HTTP/1.1 200 OK\r\nX: y\r\n", " "+long+"\r\n", wrote), bad, true},
		{"a status line without end", floods("HTTP/1.1 200 ", long, wrote), bad, true},
		{"100s without end", floods("", "HTTP/1.1 100 Continue\r\n\r\n", wrote), bad, true},
		{"103s without end", floods("", "HTTP/1.1 103 Early Hints\r\nLink: </x>\r\n\r\n", wrote), bad, true},
		{"102s with a length", floods("", "HTTP/1.1 102 Processing\r\nContent-Length: 5\r\n\r\nhello", wrote), bad, true},
		{"a gzip bomb", peer.Says(bomb(t)), "", false},
		{"a deflate bomb's name", peer.Says("HTTP/1.1 200 OK\r\nContent-Encoding: deflate, gzip, br\r\nContent-Length: 2\r\n\r\nok"), "", false},
		// cut
		{"closes at once", peer.SaysAndCloses(""), webhook.ConnectionReset, false},
		{"resets", resets, webhook.ConnectionReset, false},
		{"closes in the head", peer.SaysAndCloses("HTTP/1.1 200 OK\r\nX: y\r\n"), webhook.ConnectionReset, false},
		{"closes in a line of the head", peer.SaysAndCloses("HTTP/1.1 200 OK\r\nConte"), bad, false},
		{"closes in the body", peer.SaysAndCloses("HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nok"), webhook.ConnectionReset, false},
		{"closes in a chunk", peer.SaysAndCloses("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n64\r\nok"), webhook.ConnectionReset, false},
		{"closes before the last chunk", peer.SaysAndCloses("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n"), webhook.ConnectionReset, false},
		// redirects are final replies
		{"redirects to itself", peer.Says("HTTP/1.1 302 Found\r\nLocation: /hook\r\nContent-Length: 0\r\n\r\n"), "http 302", false},
		{"redirects and keeps the method", peer.Says("HTTP/1.1 308 Moved\r\nLocation: /hook\r\nContent-Length: 0\r\n\r\n"), "http 308", false},
		{"redirects to metadata", peer.Says("HTTP/1.1 307 Moved\r\nLocation: http://169.254.169.254/latest\r\nContent-Length: 0\r\n\r\n"), "http 307", false},
		{"redirects to a file", peer.Says("HTTP/1.1 301 Moved\r\nLocation: file:///etc/passwd\r\nContent-Length: 0\r\n\r\n"), "http 301", false},
		{"asks for credentials", peer.Says("HTTP/1.1 401 No\r\nWWW-Authenticate: Basic realm=x\r\nContent-Length: 0\r\n\r\n"), "http 401", false},
		{"asks to try again", peer.Says("HTTP/1.1 408 Slow\r\nConnection: close\r\nContent-Length: 0\r\n\r\n"), "http 408", false},
		{"misdirected", peer.Says("HTTP/1.1 421 Not here\r\nContent-Length: 0\r\n\r\n"), "http 421", false},
	}
	for _, line := range []string{
		"", "\r\n", "garbage", "SSH-2.0-OpenSSH_9.9", "220 mail ESMTP", "HTTP", "HTTP/1.1", "HTTP/1.1 ", "HTTP/1.1 OK", "HTTP/1.1 20 OK", "HTTP/1.1 2000 OK",
		"HTTP/1.1 -20 OK", "HTTP/1.1 +20 OK", "HTTP/1.1 0x1 OK", "HTTP/1.1 ２００ OK", "HTTP/x.y 200 OK", "http/1.1 200 OK", "HTTP/1.1\t200 OK", "HTTP/11 200 OK",
		"\x00\x00\x12\x04\x00\x00\x00\x00\x00", "\x16\x03\x01\x02\x00", "HTTP/1.1 200OK",
	} {
		rows = append(rows, hostile{fmt.Sprintf("status line %q", line), peer.SaysAndCloses(line + "\r\nContent-Length: 0\r\n\r\n"), bad, false})
	}
	for _, head := range []string{
		"Content-Length: -1", "Content-Length: 1e1", "Content-Length: 0x2", "Content-Length: +2", "Content-Length: 2 2", "Content-Length: 99999999999999999999",
		"Content-Length: 1\r\nContent-Length: 2", "Transfer-Encoding: gzip", "Transfer-Encoding: chunked, chunked", "Transfer-Encoding: xchunked",
		"no colon", ": no name", "Content-Length : 2", "Bad Name: x", "Transfer-Encoding: chunked\r\nContent-Length: 2",
	} {
		rows = append(rows, hostile{fmt.Sprintf("head %q", head), peer.SaysAndCloses("HTTP/1.1 200 OK\r\n" + head + "\r\n\r\nok"), "?", false})
	}
	return rows
}

// TestHostileReplies checks that each reply has an outcome of the closed list, within the timeout, at bounded cost,
// with one request made, and that the next request of the same sender gets its own reply.
func TestHostileReplies(t *testing.T) {
	var wrote atomic.Int64
	before := runtime.NumGoroutine()
	for _, test := range hostiles(t, &wrote) {
		t.Run(test.name, func(t *testing.T) {
			wrote.Store(0)
			p := peer.New(t, func(c net.Conn, n int32) bool {
				if n == 1 {
					return test.answer(c, n)
				}
				return peer.Says(teapot)(c, n)
			})
			s := newSender(t, func(c *Config) { c.Timeout = brief })
			cost := allocated(func() {
				out := s.Send(t.Context(), request(t, p.URL))
				wantOutcome(t, out, test.want)
			})
			if p.Requests.Load() != 1 {
				t.Errorf("%d requests", p.Requests.Load())
			}
			if cost > perRequest {
				t.Errorf("%d bytes allocated", cost)
			}
			out := s.Send(t.Context(), request(t, p.URL))
			if out.Failure != "http 418" || p.Requests.Load() != 2 {
				t.Errorf("the next request: %+v after %d requests, want its own reply", out, p.Requests.Load())
			}
			if n := wrote.Load(); n > 32<<20 {
				t.Errorf("%d bytes of a flood were accepted", n)
			}
		})
	}
	gone := func() bool { return runtime.NumGoroutine() <= before+2 }
	if !eventually(5*time.Second, gone) {
		t.Errorf("%d goroutines, before there were %d", runtime.NumGoroutine(), before)
	}
}

// wantOutcome compares an outcome with a failure: bad means any of the closed list, "?" any of it or success.
func wantOutcome(t *testing.T, out Outcome, want webhook.Failure) {
	t.Helper()
	known := out.Failure == ""
	for _, f := range []webhook.Failure{webhook.Timeout, webhook.ConnectionRefused, webhook.ConnectionReset, webhook.DNS, webhook.TLS, webhook.BlockedAddress, webhook.Network} {
		known = known || out.Failure == f
	}
	if strings.HasPrefix(string(out.Failure), "http ") {
		known = out.Failure == webhook.HTTPFailure(out.Status) && out.Status >= 100 && out.Status <= 999
	}
	switch {
	case !known:
		t.Errorf("%+v is not in the closed list", out)
	case want == "?", want == bad && out.Failure != "", want == out.Failure:
	default:
		t.Errorf("%+v, want %q", out, want)
	}
	if out.Took > brief+late || out.Aborted {
		t.Errorf("%+v, want it within %v", out, brief)
	}
}

// allocated returns the bytes allocated while f ran, by f and by other goroutines.
func allocated(f func()) uint64 {
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	f()
	runtime.ReadMemStats(&after)
	return after.TotalAlloc - before.TotalAlloc
}

// eventually polls until ok returns true or the time has passed.
func eventually(within time.Duration, ok func() bool) bool {
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for end := time.Now().Add(within); !ok(); <-tick.C {
		if time.Now().After(end) {
			return false
		}
	}
	return true
}

const evil = "HTTP/1.1 200 Evil\r\nContent-Length: 0\r\n\r\n"

// TestSmuggledReplies checks that surplus data of a peer never becomes the reply to another request, whether it is sent
// with the reply or later, while the connection is idle.
func TestSmuggledReplies(t *testing.T) {
	tests := map[string]string{
		"after an empty body":                 "HTTP/1.1 202 Mine\r\nContent-Length: 0\r\n\r\n|" + evil,
		"after a body":                        "HTTP/1.1 202 Mine\r\nContent-Length: 2\r\n\r\nok|" + evil,
		"after a body that is longer":         "HTTP/1.1 202 Mine\r\nContent-Length: 2\r\n\r\nok|and more",
		"a byte":                              "HTTP/1.1 202 Mine\r\nContent-Length: 2\r\n\r\nok|H",
		"a new line":                          "HTTP/1.1 202 Mine\r\nContent-Length: 2\r\n\r\nok|\r\n",
		"after chunks":                        "HTTP/1.1 202 Mine\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n|" + evil,
		"after trailers":                      "HTTP/1.1 202 Mine\r\nTransfer-Encoding: chunked\r\nTrailer: X\r\n\r\n0\r\nX: y\r\n\r\n|" + evil,
		"after 204":                           "HTTP/1.1 204 Mine\r\n\r\n|" + evil,
		"a body of 204":                       "HTTP/1.1 204 Mine\r\nContent-Length: 40\r\n\r\n|" + evil,
		"a body of 304":                       "HTTP/1.1 304 Mine\r\nContent-Length: 40\r\n\r\n|" + evil,
		"after 101":                           "HTTP/1.1 101 Mine\r\nUpgrade: x\r\nConnection: Upgrade\r\n\r\n|" + evil,
		"both lengths":                        "HTTP/1.1 202 Mine\r\nContent-Length: 50\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n|" + evil,
		"both lengths, turned":                "HTTP/1.1 202 Mine\r\nTransfer-Encoding: chunked\r\nContent-Length: 5\r\n\r\n0\r\n\r\n|" + evil,
		"the same length twice":               "HTTP/1.1 202 Mine\r\nContent-Length: 2\r\nContent-Length: 2\r\n\r\nok|" + evil,
		"kept alive by HTTP/1.0":              "HTTP/1.0 202 Mine\r\nConnection: keep-alive\r\nContent-Length: 2\r\n\r\nok|" + evil,
		"HTTP/1.0":                            "HTTP/1.0 202 Mine\r\nContent-Length: 2\r\n\r\nok|" + evil,
		"announced as closed":                 "HTTP/1.1 202 Mine\r\nConnection: close\r\nContent-Length: 2\r\n\r\nok|" + evil,
		"announced as closed among others":    "HTTP/1.1 202 Mine\r\nConnection: x, close\r\nContent-Length: 2\r\n\r\nok|" + evil,
		"a late 100":                          "HTTP/1.1 202 Mine\r\nContent-Length: 0\r\n\r\n|HTTP/1.1 100 Continue\r\n\r\n",
		"an empty line more, then a reply":    "HTTP/1.1 202 Mine\r\nContent-Length: 0\r\n\r\n|\r\n" + evil,
		"lines that end in \\n":               "HTTP/1.1 202 Mine\nContent-Length: 2\n\nok|" + evil,
		"a hundred replies":                   "HTTP/1.1 202 Mine\r\nContent-Length: 0\r\n\r\n|" + strings.Repeat(evil, 100),
		"replies longer than a buffer":        "HTTP/1.1 202 Mine\r\nContent-Length: 0\r\n\r\n|" + strings.Repeat("HTTP/1.1 200 Evil\r\nContent-Length: 5000\r\n\r\n"+strings.Repeat("e", 5000), 10),
		"after a body as large as the limit":  "HTTP/1.1 202 Mine\r\nContent-Length: 65536\r\n\r\n" + strings.Repeat("b", maxReplyBody) + "|" + evil,
		"after a body larger than the limit":  "HTTP/1.1 202 Mine\r\nContent-Length: 70000\r\n\r\n" + strings.Repeat("b", 70000) + "|" + evil,
		"after a body that fills the buffer":  "HTTP/1.1 202 Mine\r\nContent-Length: 4053\r\n\r\n" + strings.Repeat("b", 4053) + "|" + evil,
		"after a body around the buffer":      "HTTP/1.1 202 Mine\r\nContent-Length: 4096\r\n\r\n" + strings.Repeat("b", 4096) + "|" + evil,
		"after a long head in pieces":         "HTTP/1.1 202 Mine\r\nX: " + strings.Repeat("h", 9000) + "\r\nContent-Length: 2\r\n\r\nok|" + evil,
		"after 1xx":                           "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 202 Mine\r\nContent-Length: 0\r\n\r\n|" + evil,
		"after an error of the same form":     "HTTP/1.1 500 Mine\r\nContent-Length: 2\r\n\r\nno|" + evil,
		"after a reply without any length":    "HTTP/1.1 202 Mine\r\n\r\n|" + evil,
		"after a chunk with too small a size": "HTTP/1.1 202 Mine\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nok\r\n0\r\n\r\n|" + evil,
		"after chunks with a wrong last line": "HTTP/1.1 202 Mine\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n|" + evil,
	}
	for name, text := range tests {
		mine, extra, _ := strings.Cut(text, "|")
		for when, later := range map[string]bool{"at once": false, "later": true} {
			t.Run(name+", "+when, func(t *testing.T) {
				t.Parallel()
				smuggle(t, mine, extra, later)
			})
		}
	}
}

func smuggle(t *testing.T, mine, extra string, later bool) {
	t.Helper()
	answered, said := make(chan struct{}), make(chan struct{})
	p := peer.New(t, func(c net.Conn, n int32) bool {
		if n > 1 {
			return peer.Says(teapot)(c, n)
		}
		if !later {
			defer close(said)
			return peer.Says(mine+extra)(c, n)
		}
		if !peer.Says(mine)(c, n) {
			return false
		}
		go func() { // while it waits for the next request on the same connection
			<-answered
			_, _ = io.WriteString(c, extra)
			close(said)
		}()
		return true
	})
	s := newSender(t, func(c *Config) { c.Timeout = brief })
	out := s.Send(t.Context(), request(t, p.URL))
	if out.Failure == "http 200" || out.Status == 200 || out.Failure == "" {
		t.Errorf("the first request: %+v", out)
	}
	close(answered)
	<-said
	for range 3 {
		if out := s.Send(t.Context(), request(t, p.URL)); out.Failure != "http 418" {
			t.Errorf("a request after it: %+v, want http 418", out)
		}
	}
	if n := p.Requests.Load(); n != 4 {
		t.Errorf("%d requests, want 4", n)
	}
}

// TestLateReply checks that the reply to a request that timed out or was cancelled does not become that of the next
// one.
func TestLateReply(t *testing.T) {
	for name, timeout := range map[string]bool{"after a timeout": true, "after an end": false} {
		t.Run(name, func(t *testing.T) {
			gone := make(chan struct{})
			p := peer.New(t, func(c net.Conn, n int32) bool {
				if n == 1 {
					<-gone
					return peer.Says(evil)(c, n)
				}
				return peer.Says(teapot)(c, n)
			})
			s := newSender(t, func(c *Config) { c.Timeout = brief })
			ctx, cancel := withEnd(t, !timeout)
			defer cancel()
			if out := s.Send(ctx, request(t, p.URL)); out.Failure == "" || out.Aborted == timeout {
				t.Errorf("%+v", out)
			}
			close(gone)
			for range 3 {
				if out := s.Send(t.Context(), request(t, p.URL)); out.Failure != "http 418" {
					t.Errorf("a request after it: %+v", out)
				}
			}
		})
	}
}

// TestSharedHost sends hundreds of requests of many users to one host, which misbehaves for some of them. Each request
// gets its own reply and is sent once, or twice if its connection was used before and ended without a reply. The status
// identifies the request that the reply belongs to.
func TestSharedHost(t *testing.T) {
	var wrote atomic.Int64
	mean := hostiles(t, &wrote)
	var made sync.Map // id → times
	l, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go sharedHost(c, mean, &made)
		}
	}()
	s := newSender(t, func(c *Config) { c.Timeout = time.Second })
	var all sync.WaitGroup
	var good atomic.Int32
	for worker := range 20 {
		all.Go(func() {
			random := rand.New(rand.NewPCG(uint64(worker), 7))
			for i := range 50 {
				r := request(t, "http://"+l.Addr().String()+"/")
				r.ID = fmt.Sprintf("sms-dlr/%d/%d", worker, i)
				if random.IntN(8) == 0 {
					r.ID = fmt.Sprintf("mean/%d/%d", random.IntN(len(mean)), worker*1000+i)
				}
				out := s.Send(t.Context(), r)
				if strings.HasPrefix(r.ID, "sms-dlr") {
					good.Add(1)
					if out.Status != statusOf(r.ID) {
						t.Errorf("%s: %+v, want %d", r.ID, out, statusOf(r.ID))
					}
				}
				most := int32(1)
				if strings.HasPrefix(r.ID, "mean") || statusOf(r.ID) == http.StatusRequestTimeout {
					most = 2 // a reused connection may have been closed while idle
				}
				if n, ok := made.Load(r.ID); !ok || n.(*atomic.Int32).Load() > most {
					t.Errorf("%s was sent %v times, want at most %d", r.ID, n, most)
				}
			}
		})
	}
	all.Wait()
	t.Logf("%d requests got their own reply among %d with a hostile reply", good.Load(), 1000-good.Load())
}

func statusOf(id string) int {
	h := fnv.New32a()
	_, _ = io.WriteString(h, id)
	return 400 + int(h.Sum32()%199)
}

func sharedHost(c net.Conn, mean []hostile, made *sync.Map) {
	defer c.Close()
	r := bufio.NewReader(c)
	for {
		req, err := http.ReadRequest(r)
		if err != nil {
			return
		}
		if _, err := io.Copy(io.Discard, req.Body); err != nil {
			return
		}
		id := req.Header.Get("Webhook-Id")
		times, _ := made.LoadOrStore(id, new(atomic.Int32))
		times.(*atomic.Int32).Add(1)
		var kind, n int
		if _, err := fmt.Sscanf(id, "mean/%d/%d", &kind, &n); err == nil {
			if !mean[kind].answer(c, 1) {
				return
			}
			continue
		}
		reply := fmt.Sprintf("HTTP/1.1 %d x\r\nContent-Length: %d\r\n\r\n%s", statusOf(id), len(id), id)
		if statusOf(id)%8 == 0 {
			// And an unsolicited reply in the same write. If it came when the connection already carries the next
			// request, it would be that request's reply by the rules of HTTP/1.1.
			reply += evil
		}
		if _, err := io.WriteString(c, reply); err != nil {
			return
		}
	}
}

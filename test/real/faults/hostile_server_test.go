package faults_test

import (
	"bufio"
	"compress/gzip"
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// faultyServer is a web server on raw connections. Each of its faulty paths misbehaves in its own way.
type faultyServer struct {
	addr    string
	answers map[string]func(c net.Conn, attempt int) (keep bool)
	silent  map[string]bool // paths that end the connection without a reply
	flooded atomic.Int64    // bytes of floods that the client accepted

	mu       sync.Mutex
	requests map[string][]faultyServerHit // by identity
}

type faultyServerHit struct {
	path    string
	attempt int
	at      time.Time
	kept    bool // not the first request of its connection
	silent  bool // the connection ends without a reply
}

// newFaultyServer returns a server without listeners; listen adds them.
func newFaultyServer() *faultyServer {
	return &faultyServer{answers: map[string]func(net.Conn, int) bool{}, silent: map[string]bool{}, requests: map[string][]faultyServerHit{}}
}

func (f *faultyServer) listen(t testing.TB, address string) string {
	t.Helper()
	l, err := net.Listen("tcp4", address)
	if err != nil {
		t.Fatal(err)
	}
	f.serve(t, l)
	return l.Addr().String()
}

func (f *faultyServer) serve(t testing.TB, l net.Listener) {
	t.Cleanup(func() { _ = l.Close() })
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go f.talk(c)
		}
	}()
}

// listenTLS is like listen with TLS.
func (f *faultyServer) listenTLS(t testing.TB, address string, cfg *tls.Config) string {
	t.Helper()
	l, err := tls.Listen("tcp4", address, cfg)
	if err != nil {
		t.Fatal(err)
	}
	f.serve(t, l)
	return l.Addr().String()
}

func (f *faultyServer) talk(c net.Conn) {
	defer c.Close()
	r := bufio.NewReader(c)
	for kept := false; ; kept = true {
		req, err := http.ReadRequest(r)
		if err != nil {
			return
		}
		if _, err := io.Copy(io.Discard, req.Body); err != nil {
			return
		}
		attempt, _ := strconv.Atoi(req.Header.Get("Webhook-Attempt"))
		id := req.Header.Get("Webhook-Id")
		f.mu.Lock()
		f.requests[id] = append(f.requests[id], faultyServerHit{req.URL.Path, attempt, time.Now(), kept, f.silent[req.URL.Path]})
		f.mu.Unlock()
		answer := f.answers[req.URL.Path]
		if answer == nil {
			answer = say("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
		}
		if !answer(c, attempt) {
			return
		}
	}
}

// hits returns the requests of an identity.
func (f *faultyServer) hits(id string) []faultyServerHit {
	f.mu.Lock()
	defer f.mu.Unlock()
	return append([]faultyServerHit(nil), f.requests[id]...)
}

func say(text string) func(net.Conn, int) bool {
	return func(c net.Conn, _ int) bool { _, err := io.WriteString(c, text); return err == nil }
}

func sayAndClose(text string) func(net.Conn, int) bool {
	return func(c net.Conn, _ int) bool { _, _ = io.WriteString(c, text); return false }
}

func sayAndHang(text string) func(net.Conn, int) bool {
	return func(c net.Conn, _ int) bool {
		_, _ = io.WriteString(c, text)
		_, _ = io.Copy(io.Discard, c)
		return false
	}
}

func sayAndReset(text string) func(net.Conn, int) bool {
	return func(c net.Conn, _ int) bool {
		_, _ = io.WriteString(c, text)
		if tcp, ok := c.(*net.TCPConn); ok {
			_ = tcp.SetLinger(0)
		}
		return false
	}
}

// drip sends first at once, then text repeatedly, one byte every d.
func drip(first, text string, d time.Duration) func(net.Conn, int) bool {
	return func(c net.Conn, _ int) bool {
		_, _ = io.WriteString(c, first)
		tick := time.NewTicker(d)
		defer tick.Stop()
		for i := 0; ; i++ {
			<-tick.C
			if _, err := c.Write([]byte{text[i%len(text)]}); err != nil {
				return false
			}
		}
	}
}

// flood sends first, then piece repeatedly until it has sent 10 GB or the peer disconnects.
func (f *faultyServer) flood(first, piece string) func(net.Conn, int) bool {
	block := []byte(strings.Repeat(piece, 1+(64<<10)/len(piece)))
	return func(c net.Conn, _ int) bool {
		_, _ = io.WriteString(c, first)
		for sent := 0; sent < 10<<30; sent += len(block) {
			n, err := c.Write(block)
			f.flooded.Add(int64(n))
			if err != nil {
				return false
			}
		}
		return false
	}
}

// fault is a way to answer, and the failure of the attempts: "" = it counts as delivered, "*" = any failure of the
// closed list.
type fault struct {
	name, url string
	failure   string
}

// faults returns the faults of plain connections at v's address.
func (f *faultyServer) faults() []fault {
	const ok = "HTTP/1.1 200 OK\r\n"
	var all []fault
	add := func(name, failure string, answer func(net.Conn, int) bool) {
		path := "/fault/" + strconv.Itoa(len(f.answers))
		f.answers[path] = answer
		f.silent[path] = strings.HasSuffix(name, "without a word")
		all = append(all, fault{name, "http://" + f.addr + path, failure})
	}
	add("hangs before its reply", "timeout", sayAndHang(""))
	add("hangs after headers", "timeout", sayAndHang(ok+"Content-Length: 5\r\n\r\n"))
	add("hangs after an error's headers", "http 500", sayAndHang("HTTP/1.1 500 No\r\nContent-Length: 5\r\n\r\n"))
	add("drips a body", "timeout", drip(ok+"Content-Length: 100000\r\n\r\n", ".", pick(100*time.Millisecond, time.Second)))
	add("drips headers", "timeout", drip(ok, "X-Drip: 1\r\n", pick(100*time.Millisecond, time.Second)))
	add("10 GB of success", "", f.flood(ok+"Content-Length: 10737418240\r\n\r\n", strings.Repeat("x", 1000)))
	add("10 GB of failure", "http 502", f.flood("HTTP/1.1 502 No\r\nContent-Length: 10737418240\r\n\r\n", strings.Repeat("x", 1000)))
	add("10 GB in chunks", "", f.flood(ok+"Transfer-Encoding: chunked\r\n\r\n", "400\r\n"+strings.Repeat("x", 1024)+"\r\n"))
	add("1 MB of headers", "*", say(ok+strings.Repeat("X: "+strings.Repeat("y", 1000)+"\r\n", 1000)+"Content-Length: 0\r\n\r\n"))
	add("a header of 1 MB", "*", say(ok+"X: "+strings.Repeat("y", 1<<20)+"\r\nContent-Length: 0\r\n\r\n"))
	add("closes in the middle of a body", "connection reset", sayAndClose(ok+"Content-Length: 100\r\n\r\nok"))
	add("resets in the middle of a body", "connection reset", sayAndReset(ok+"Content-Length: 100\r\n\r\nok"))
	add("closes without a word", "connection reset", sayAndClose(""))
	add("resets without a word", "connection reset", sayAndReset(""))
	for _, line := range []string{"garbage", "HTTP/1.1 OK", "HTTP/1.1 2000 OK", "SSH-2.0-OpenSSH_9.9", "\x00\x00\x12\x04\x00"} {
		add(fmt.Sprintf("status line %q", line), "*", sayAndClose(line+"\r\n\r\n"))
	}
	add("1xx without end", "*", f.flood("", "HTTP/1.1 100 Continue\r\n\r\n"))
	add("drips 103", "timeout", drip("", "HTTP/1.1 103 Early Hints\r\nLink: </x>\r\n\r\n", 20*time.Millisecond))
	add("Content-Length too large", "connection reset", sayAndClose(ok+"Content-Length: 3\r\n\r\nok"))
	add("Content-Length too small", "", say(ok+"Content-Length: 1\r\n\r\nok"))
	add("two Content-Lengths", "*", sayAndClose(ok+"Content-Length: 1\r\nContent-Length: 2\r\n\r\nok"))
	add("a negative Content-Length", "*", sayAndClose(ok+"Content-Length: -2\r\n\r\nok"))
	itself := "/fault/" + strconv.Itoa(len(f.answers))
	add("redirects to itself", "http 302", say("HTTP/1.1 302 Found\r\nLocation: "+itself+"\r\nContent-Length: 0\r\n\r\n"))
	add("redirects to metadata", "http 307", say("HTTP/1.1 307 Moved\r\nLocation: http://169.254.169.254/\r\nContent-Length: 0\r\n\r\n"))
	bomb := gzipBomb()
	add("a gzip bomb", "", say(ok+"Content-Encoding: gzip\r\nContent-Length: "+strconv.Itoa(len(bomb))+"\r\n\r\n"+bomb))
	add("a reply too many", "http 418", say("HTTP/1.1 418 Mine\r\nContent-Length: 0\r\n\r\nHTTP/1.1 200 Smuggled\r\nContent-Length: 0\r\n\r\n"))
	add("switches protocols", "http 101", say("HTTP/1.1 101 Switching\r\nUpgrade: x\r\nConnection: Upgrade\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"))
	return all
}

// gzipBomb returns a body of less than the 64 KiB that are read of a reply, which decompresses to 60 MiB.
func gzipBomb() string {
	var b strings.Builder
	w, _ := gzip.NewWriterLevel(&b, gzip.BestCompression) // writing to memory cannot fail
	zeros := make([]byte, 1<<20)
	for range 60 {
		_, _ = w.Write(zeros)
	}
	_ = w.Close()
	return b.String()
}

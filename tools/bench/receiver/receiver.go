// Package receiver is the benchmarks' customer: an HTTP/1.1 server that costs as little as possible, answers 200 to
// everything, and reports when the first and the last of an announced number of requests arrived.
//
// It runs as a child process and is controlled by lines: "arm SKIP COUNT" on its input makes it forget what it counted,
// skip SKIP requests and watch the COUNT that follow. On its output it writes JSON [proc.Note]s: "listening" once, then
// "armed", "first" and "done" for every arm. It ends with its input.
package receiver

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"github.com/smshooks/smshooks/tools/bench/proc"
	"github.com/smshooks/smshooks/tools/bench/result"
)

// Config configures the receiver.
type Config struct {
	Listen string      // host:port; port 0 = any free one
	TLS    *tls.Config // nil = plain HTTP
	Close  bool        // close the connection after every reply
}

// Mark stands in the value of an event's reference before the Unix nanoseconds at which it was produced. It consists
// of letters only, so that no encoding of the body changes it.
const Mark = "producedAt"

// watch is one announced number of requests.
type watch struct {
	skip, last int64
	count      atomic.Int64
	first      atomic.Int64 // Unix ns
	latency    []atomic.Int64
	handshakes atomic.Int64
	resumed    atomic.Int64
}

type server struct {
	cfg   Config
	watch atomic.Pointer[watch]
	mu    sync.Mutex // guards out
	out   *json.Encoder
}

// Run serves until in ends or ctx does. It returns an error if it cannot listen or the input is invalid.
func Run(ctx context.Context, cfg Config, in io.Reader, out io.Writer) error {
	listener, err := net.Listen("tcp", cfg.Listen)
	if err != nil {
		return fmt.Errorf("receiver: %w", err)
	}
	defer listener.Close()
	s := &server{cfg: cfg, out: json.NewEncoder(out)}
	s.watch.Store(&watch{})
	if err := s.tell(proc.Note{Event: "listening", Addr: listener.Addr().String()}); err != nil {
		return err
	}
	context.AfterFunc(ctx, func() { listener.Close() })
	go s.accept(listener)
	return s.obey(in)
}

func (s *server) obey(in io.Reader) error {
	lines := bufio.NewScanner(in)
	for lines.Scan() {
		var skip, count int64
		if _, err := fmt.Sscanf(lines.Text(), "arm %d %d", &skip, &count); err != nil || skip < 0 || count < 1 {
			return fmt.Errorf("receiver: %q is not \"arm SKIP COUNT\"", lines.Text())
		}
		s.watch.Store(&watch{skip: skip, last: skip + count, latency: make([]atomic.Int64, count)})
		if err := s.tell(proc.Note{Event: "armed"}); err != nil {
			return err
		}
	}
	return lines.Err()
}

func (s *server) tell(n proc.Note) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := s.out.Encode(n); err != nil {
		return fmt.Errorf("receiver: telling %s: %w", n.Event, err)
	}
	return nil
}

func (s *server) accept(l net.Listener) {
	for {
		conn, err := l.Accept()
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if err != nil {
			time.Sleep(time.Millisecond) // for example out of descriptors: some will be closed
			continue
		}
		// The listener is on 0.0.0.0 to accept all of 127.x.y.z. No other clients are served.
		if a, ok := conn.RemoteAddr().(*net.TCPAddr); !ok || !a.IP.IsLoopback() {
			conn.Close()
			continue
		}
		go s.serve(conn)
	}
}

var reply = []byte("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
var lastReply = []byte("HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 0\r\n\r\n")

// serve reads requests and answers them, until the peer closes the connection or sends an invalid request.
func (s *server) serve(conn net.Conn) {
	defer conn.Close()
	if s.cfg.TLS != nil {
		secured := tls.Server(conn, s.cfg.TLS)
		if secured.Handshake() != nil {
			return
		}
		w := s.watch.Load()
		w.handshakes.Add(1)
		if secured.ConnectionState().DidResume {
			w.resumed.Add(1)
		}
		conn = secured
		defer secured.Close()
	}
	for in := NewRequests(conn, 8<<10); ; {
		body, err := in.Next()
		if err != nil {
			return
		}
		s.received(body)
		if s.cfg.Close {
			_, _ = conn.Write(lastReply)
			return
		}
		if _, err := conn.Write(reply); err != nil {
			return
		}
	}
}

// Requests reads the requests of one connection.
type Requests struct {
	conn io.Reader
	buf  []byte
	have int // bytes in buf
	end  int // of the latest request
}

// NewRequests returns a reader of requests with a buffer of size bytes, which grows as needed.
func NewRequests(conn io.Reader, size int) *Requests {
	return &Requests{conn: conn, buf: make([]byte, size)}
}

// Next reads a request and returns its body, which is valid until the next call.
func (r *Requests) Next() (body []byte, err error) {
	r.have, r.end = copy(r.buf, r.buf[r.end:r.have]), 0
	head, length := -1, 0
	for head < 0 || r.have < head+length {
		if r.have == len(r.buf) {
			r.buf = append(r.buf, make([]byte, len(r.buf))...)
		}
		n, err := r.conn.Read(r.buf[r.have:])
		if err != nil {
			return nil, err
		}
		r.have += n
		if head < 0 {
			if i := bytes.Index(r.buf[:r.have], []byte("\r\n\r\n")); i >= 0 {
				head, length = i+4, contentLength(r.buf[:i])
			}
		}
	}
	r.end = head + length
	return r.buf[head:r.end], nil
}

// contentLength finds the length in a request's head, 0 if it has none.
func contentLength(head []byte) int {
	const name = "content-length:"
	for len(head) > 0 {
		line := head
		if i := bytes.IndexByte(head, '\n'); i >= 0 {
			line, head = head[:i], head[i+1:]
		} else {
			head = nil
		}
		if len(line) > len(name) && (line[0] == 'C' || line[0] == 'c') && bytes.EqualFold(line[:len(name)], []byte(name)) {
			n, err := strconv.Atoi(string(bytes.TrimSpace(line[len(name):])))
			if err == nil && n >= 0 {
				return n
			}
		}
	}
	return 0
}

// received counts a request.
func (s *server) received(body []byte) {
	w := s.watch.Load()
	n := w.count.Add(1)
	if n <= w.skip || n > w.last {
		return
	}
	if at, ok := Produced(body); ok {
		w.latency[n-w.skip-1].Store(max(int64(time.Since(at)), 1))
	}
	if n == w.skip+1 {
		w.first.Store(time.Now().UnixNano())
		_ = s.tell(proc.Note{Event: "first"}) // fails only if the parent has exited
	}
	if n == w.last {
		_ = s.tell(w.done(time.Now()))
	}
}

// Produced returns the time after the [Mark] in a body.
func Produced(body []byte) (at time.Time, ok bool) {
	i := bytes.Index(body, []byte(Mark))
	if i < 0 {
		return at, false
	}
	ns, ok := readMark(body[i+len(Mark):])
	return time.Unix(0, ns), ok
}

func readMark(text []byte) (ns int64, ok bool) {
	const digits = 19 // of the Unix nanoseconds of this century and the next
	if len(text) < digits {
		return 0, false
	}
	ns, err := strconv.ParseInt(string(text[:digits]), 10, 64)
	return ns, err == nil
}

// done returns the figures of the watched requests: the latencies from the time in the body to the moment the request
// had been read, if the bodies had one, and the handshakes since it was armed.
func (w *watch) done(now time.Time) proc.Note {
	f := result.Figures{}
	if n := w.handshakes.Load(); n > 0 {
		f[result.Handshakes], f[result.Resumed] = float64(n), 100*float64(w.resumed.Load())/float64(n)
	}
	var took []int64
	for i := range w.latency {
		if ns := w.latency[i].Load(); ns > 0 {
			took = append(took, ns)
		}
	}
	if len(took) > 0 {
		slices.Sort(took)
		at := func(q float64) float64 { return float64(took[int(q*float64(len(took)-1))]) / 1e6 }
		f[result.P50], f[result.P99] = at(0.5), at(0.99)
	}
	return proc.Note{Event: "done", First: time.Unix(0, w.first.Load()), Last: now, Figures: f}
}

package fleet

import (
	"bufio"
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/smshooks/smshooks/tools/bench/proc"
	"github.com/smshooks/smshooks/tools/bench/receiver"
	"github.com/smshooks/smshooks/tools/bench/result"
)

// server acts as all hosts of a fleet and their name server.
type server struct {
	fleet Fleet
	names *nameServer
	tls   *tls.Config
	watch atomic.Pointer[watch]
}

// watch counts what happens between two readings.
type watch struct {
	since                time.Time
	questions            int64 // to the name server before it
	accepted, handshakes atomic.Int64
	resumed, answered    atomic.Int64

	mu      sync.Mutex
	classes [classes]tally
}

// tally is what hosts of one class received.
type tally struct {
	requests, reused int
	took             []time.Duration // from event to request
}

// Run serves a fleet as a child process. It listens on all addresses of the machine, but serves only clients on it.
// It writes to out a [proc.Note] "listening" with the port and the name server. Each line of in ends a count and begins
// the next one: Run writes a note "counted" with the figures. It returns at the end of in.
func Run(ctx context.Context, hosts int, authority tls.Certificate, in io.Reader, out io.Writer) error {
	listener, err := net.Listen("tcp4", "0.0.0.0:0")
	if err != nil {
		return fmt.Errorf("fleet: %w", err)
	}
	defer listener.Close()
	f := Fleet{Hosts: hosts}
	names, err := listenNames(f)
	if err != nil {
		return fmt.Errorf("fleet: %w", err)
	}
	defer names.conn.Close()
	issuer, err := newIssuer(authority)
	if err != nil {
		return fmt.Errorf("fleet: %w", err)
	}
	s := &server{fleet: f, names: names, tls: issuer.config(f)}
	s.watch.Store(&watch{since: time.Now()})
	context.AfterFunc(ctx, func() { listener.Close() })
	go names.serve()
	go s.accept(listener)
	_, port, _ := net.SplitHostPort(listener.Addr().String())
	notes := json.NewEncoder(out)
	if err := notes.Encode(proc.Note{Event: "listening", Addr: net.JoinHostPort(names.host(), port)}); err != nil {
		return fmt.Errorf("fleet: %w", err)
	}
	for lines := bufio.NewScanner(in); lines.Scan(); {
		now, asked := time.Now(), names.questions.Load()
		before := s.watch.Swap(&watch{since: now, questions: asked})
		if err := notes.Encode(before.note(now, asked)); err != nil {
			return fmt.Errorf("fleet: %w", err)
		}
	}
	return nil
}

// note returns the figures of a count. questions is the number of questions to the name server up to its end.
func (w *watch) note(end time.Time, questions int64) proc.Note {
	w.mu.Lock()
	defer w.mu.Unlock()
	var all tally
	cases := make(map[string]result.Figures)
	for c := range Classes() {
		t := &w.classes[c]
		if t.requests > 0 {
			cases[Class(c).String()] = t.figures()
		}
		all.requests += t.requests
		all.reused += t.reused
		all.took = append(all.took, t.took...)
	}
	f := result.Figures{result.Rate: float64(all.requests) / end.Sub(w.since).Seconds()}
	if all.requests > 0 {
		each := float64(all.requests)
		f = all.figures()
		f[result.Rate] = each / end.Sub(w.since).Seconds()
		f[result.Dials] = float64(w.accepted.Load()) / each
		f[result.Questions] = float64(questions-w.questions) / each
		f[result.Handshakes] = float64(w.handshakes.Load())
		f[result.Resumed] = 100 * float64(w.resumed.Load()) / max(1, float64(w.handshakes.Load()))
	}
	return proc.Note{Event: "counted", First: w.since, Last: end, Figures: f, Count: w.answered.Load(), Cases: cases}
}

func (t *tally) figures() result.Figures {
	f := result.Figures{result.Reused: 100 * float64(t.reused) / float64(t.requests)}
	if len(t.took) > 0 {
		slices.Sort(t.took)
		at := func(q float64) float64 { return t.took[int(q*float64(len(t.took)-1))].Seconds() * 1e3 }
		f[result.P50], f[result.P99] = at(0.5), at(0.99)
	}
	return f
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
		if a, ok := conn.RemoteAddr().(*net.TCPAddr); !ok || !a.IP.IsLoopback() {
			conn.Close()
			continue
		}
		s.watch.Load().accepted.Add(1)
		go s.serve(conn)
	}
}

var reply = []byte("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")

// serve serves one connection to one host.
func (s *server) serve(plain net.Conn) {
	const patience = 10 * time.Second
	conn := tls.Server(plain, s.tls)
	defer conn.Close()
	_ = conn.SetDeadline(time.Now().Add(patience))
	if conn.Handshake() != nil {
		return
	}
	state := conn.ConnectionState()
	w := s.watch.Load()
	w.handshakes.Add(1)
	if state.DidResume {
		w.resumed.Add(1)
	}
	class := ClassOf(s.fleet.hostOf(state.ServerName))
	in := receiver.NewRequests(conn, 2<<10)
	for reused := false; ; reused = true {
		_ = conn.SetDeadline(time.Now().Add(class.idle()))
		body, err := in.Next()
		if err != nil {
			return
		}
		s.watch.Load().received(class, reused, body)
		if class == Hangs {
			_, _ = in.Next() // until the peer gives up
			return
		}
		time.Sleep(replyTime())
		_ = conn.SetDeadline(time.Now().Add(patience))
		if _, err := conn.Write(reply); err != nil {
			return
		}
		s.watch.Load().answered.Add(1)
	}
}

func (w *watch) received(class Class, reused bool, body []byte) {
	now := time.Now()
	produced, ok := receiver.Produced(body)
	w.mu.Lock()
	defer w.mu.Unlock()
	t := &w.classes[class]
	t.requests++
	if reused {
		t.reused++
	}
	if ok {
		t.took = append(t.took, now.Sub(produced))
	}
}

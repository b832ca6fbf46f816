package app

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"strings"
	"sync"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
	"go.uber.org/zap/zaptest/observer"

	"github.com/smshooks/smshooks/config"
)

// serveLimited serves on l with a limited number of connections. A request for /slow sends to entered and waits until
// slow is closed. end ends all and waits for it.
func serveLimited(l net.Listener, most int) (entered, slow chan struct{}, end func()) {
	entered, slow = make(chan struct{}), make(chan struct{})
	ctx, stop := context.WithCancel(context.Background())
	var serving sync.WaitGroup
	h := http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/slow" {
			entered <- struct{}{}
			<-slow
		}
	})
	serving.Go(func() { serveHTTP(ctx, l, h, most, time.Second, time.Second, zap.NewNop()) })
	return entered, slow, func() { stop(); serving.Wait() }
}

// clientPipes is a listener in the process.
type clientPipes struct {
	conns  chan net.Conn
	closed chan struct{}
	once   sync.Once
}

func newClientPipes() *clientPipes {
	return &clientPipes{conns: make(chan net.Conn), closed: make(chan struct{})}
}

func (l *clientPipes) Accept() (net.Conn, error) {
	select {
	case c := <-l.conns:
		return c, nil
	case <-l.closed:
		return nil, net.ErrClosed
	}
}

func (l *clientPipes) Close() error { l.once.Do(func() { close(l.closed) }); return nil }
func (*clientPipes) Addr() net.Addr { return &net.TCPAddr{} }

// open opens a connection of a client.
func (l *clientPipes) open(t *testing.T, client string) net.Conn {
	t.Helper()
	near, far := net.Pipe()
	l.conns <- fromClient{far, &net.TCPAddr{IP: net.ParseIP(client), Port: 1}}
	t.Cleanup(func() { _ = near.Close() })
	return near
}

// fromClient is a connection with a remote address.
type fromClient struct {
	net.Conn
	remote net.Addr
}

func (c fromClient) RemoteAddr() net.Addr { return c.remote }

// open opens a connection from a separate loopback address.
func open(t *testing.T, from, to string) net.Conn {
	t.Helper()
	d := net.Dialer{LocalAddr: &net.TCPAddr{IP: net.ParseIP(from)}, Timeout: 5 * time.Second}
	c, err := d.Dial("tcp4", to)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	return c
}

func ask(c net.Conn, path string) error {
	_, err := fmt.Fprintf(c, "GET %s HTTP/1.1\r\nHost: x\r\n\r\n", path)
	return err
}

func answered(c net.Conn) error {
	_ = c.SetReadDeadline(time.Now().Add(10 * time.Second))
	resp, err := http.ReadResponse(bufio.NewReader(c), nil)
	if err != nil {
		return err
	}
	return resp.Body.Close()
}

// TestIdleConnectionsGiveWay checks that idle connections do not lock out clients, and that those of the client with
// the most connections are closed first.
func TestIdleConnectionsGiveWay(t *testing.T) {
	l, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	_, _, end := serveLimited(l, 8)
	t.Cleanup(end)
	addr := l.Addr().String()
	modest := open(t, "127.0.0.2", addr)
	if err := ask(modest, "/"); err != nil || answered(modest) != nil {
		t.Fatal("the first request was not answered")
	}
	var greedy []net.Conn
	for range 40 {
		greedy = append(greedy, open(t, "127.0.0.3", addr))
	}
	for range 3 {
		c := open(t, "127.0.0.4", addr)
		if err := ask(c, "/"); err != nil || answered(c) != nil {
			t.Fatal("a new client was not answered while another one holds all connections idle")
		}
	}
	_ = greedy[0].SetReadDeadline(time.Now().Add(10 * time.Second))
	if _, err := greedy[0].Read(make([]byte, 1)); !errors.Is(err, io.EOF) && !isReset(err) {
		t.Errorf("the oldest connection of the client with the most: %v, want it closed", err)
	}
	if err := ask(modest, "/"); err != nil || answered(modest) != nil {
		t.Error("the only connection of another client was closed")
	}
}

func isReset(err error) bool {
	op, ok := err.(*net.OpError) //nolint:errorlint // net returns it unwrapped
	return ok && !op.Timeout()
}

// inTurn makes requests for /slow from clients, each on its own connection.
func inTurn(t *testing.T, l *clientPipes, entered <-chan struct{}, clients ...string) (conns []net.Conn) {
	t.Helper()
	for _, client := range clients {
		c := l.open(t, client)
		if err := ask(c, "/slow"); err != nil {
			t.Fatal(err)
		}
		<-entered
		conns = append(conns, c)
	}
	return conns
}

// served checks that a new connection of a client is served after exactly this time.
func served(t *testing.T, l *clientPipes, client string, after time.Duration) {
	t.Helper()
	began, c := time.Now(), l.open(t, client)
	if err := errors.Join(ask(c, "/"), answered(c)); err != nil || time.Since(began) != after {
		t.Errorf("a request of %s: %v after %v, want an answer after %v", client, err, time.Since(began), after)
	}
}

// TestBusyConnectionsAreKept checks that new connections wait while all others carry requests, and that one of another
// client replaces the oldest once that has been busy for long.
func TestBusyConnectionsAreKept(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newClientPipes()
		entered, slow, end := serveLimited(l, 3)
		busy := inTurn(t, l, entered, "192.0.2.3", "192.0.2.3", "192.0.2.3")
		time.Sleep(time.Second)
		served(t, l, "192.0.2.4", busyAtLeast-time.Second)
		served(t, l, "192.0.2.3", 0) // in place of the idle one
		close(slow)
		if err := answered(busy[0]); !errors.Is(err, io.ErrUnexpectedEOF) && !errors.Is(err, io.EOF) {
			t.Errorf("the oldest connection: %v, want it closed", err)
		}
		for _, c := range busy[1:] {
			if err := answered(c); err != nil {
				t.Errorf("a busy connection: %v, want it answered", err)
			}
		}
		end()
	})
}

// TestBurstIsServed checks that no connection of a burst from one address is closed for another client's: that one waits
// until the first request ends.
func TestBurstIsServed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newClientPipes()
		entered, slow, end := serveLimited(l, 3)
		burst := inTurn(t, l, entered, "192.0.2.3", "192.0.2.3", "192.0.2.3")
		time.AfterFunc(time.Second, func() { close(slow) })
		var answers sync.WaitGroup
		for _, c := range burst {
			answers.Go(func() {
				if err := answered(c); err != nil {
					t.Errorf("a request of the burst: %v, want it answered", err)
				}
			})
		}
		served(t, l, "192.0.2.4", time.Second)
		answers.Wait()
		end()
	})
}

// TestBusyConnectionsAreShared checks that several clients which share all connections do not lock out another one, and
// that a client with one connection keeps it.
func TestBusyConnectionsAreShared(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newClientPipes()
		entered, slow, end := serveLimited(l, 8)
		modest := inTurn(t, l, entered, "192.0.2.2")[0]
		for range 3 {
			inTurn(t, l, entered, "192.0.2.3", "192.0.2.4")
		}
		inTurn(t, l, entered, "192.0.2.3")
		served(t, l, "192.0.2.5", busyAtLeast)
		served(t, l, "192.0.2.5", 0)
		close(slow)
		if err := answered(modest); err != nil {
			t.Errorf("the only connection of a client: %v, want it answered", err)
		}
		end()
	})
}

// failing is a listener of which the first calls of Accept fail.
type failing struct {
	*clientPipes
	times int
}

func (l *failing) Accept() (net.Conn, error) {
	if l.times > 0 {
		l.times--
		return nil, &net.OpError{Op: "accept", Net: "tcp", Err: os.NewSyscallError("accept4", syscall.ENOBUFS)}
	}
	return l.clientPipes.Accept()
}

// TestAcceptFails checks that connections are accepted again after errors of Accept, that these are logged once, and
// that the end of serving does not wait for the pause.
func TestAcceptFails(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		core, lines := observer.New(zapcore.InfoLevel)
		serve := func(l net.Listener) (end func()) {
			ctx, stop := context.WithCancel(context.Background())
			var serving sync.WaitGroup
			serving.Go(func() { serveHTTP(ctx, l, http.NotFoundHandler(), 10, time.Second, time.Second, zap.New(core)) })
			return func() { stop(); serving.Wait() }
		}
		l := &failing{newClientPipes(), 10}
		end := serve(l)
		const pauses = 5 + 10 + 20 + 40 + 80 + 160 + 320 + 640 + 1000 + 1000 // ms
		select {
		case l.conns <- nil:
			t.Error("a connection is accepted without a pause")
		case <-time.After(pauses*time.Millisecond - 1):
		}
		served(t, l.clientPipes, "192.0.2.3", 1)
		served(t, l.clientPipes, "192.0.2.3", 0)
		end()
		if got := lines.TakeAll(); len(got) != 2 || got[0].Level != zapcore.WarnLevel || got[1].Level != zapcore.InfoLevel {
			t.Errorf("%v, want the beginning and the end of an outage", got)
		}

		end = serve(&failing{newClientPipes(), 1000})
		time.Sleep(pauses*time.Millisecond + time.Millisecond)
		began := time.Now()
		end()
		if took := time.Since(began); took != 0 || lines.Len() != 1 {
			t.Errorf("serving ended after %v with the lines %v", took, lines.All())
		}
	})
}

func TestAllot(t *testing.T) {
	cfg := config.Defaults()
	needed := allot(1<<20, cfg).needed
	for _, limit := range []uint64{1, 100, 256, 300, 1024, 2048, 4096, needed - 1, needed, 20_000, 1 << 20, 1 << 62} {
		a := allot(limit, cfg)
		if limit >= needed && (a.inFlight != 2000 || a.api != 1000 || a.tests != 200) {
			t.Errorf("%d: %+v, want all settings in full", limit, a)
		}
		if a.inFlight < 1 || a.api < 1 || a.tests < 1 || a.conns < a.inFlight {
			t.Errorf("%d: %+v", limit, a)
		}
		if used := uint64(a.api + a.conns); limit >= 300 && used > limit*9/10 {
			t.Errorf("%d: %+v takes %d, which leaves less than a tenth", limit, a, used)
		}
	}
	if a := allot(1024, cfg); a.inFlight < 400 || a.api < 100 {
		t.Errorf("1024: %+v", a)
	}
	if a := allot(300, cfg); a.inFlight < 50 {
		t.Errorf("300: %+v", a)
	}
	if a := allot(200, cfg); a.inFlight < 30 {
		t.Errorf("200: %+v", a)
	}
}

// TestTakenPort checks that the error of a port that another process uses names the setting.
func TestTakenPort(t *testing.T) {
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer taken.Close()
	for setting, addr := range map[string]func(*config.Config) *string{
		"ops.addr": func(c *config.Config) *string { return &c.Ops.Addr },
		"api.addr": func(c *config.Config) *string { return &c.API.Addr },
	} {
		cfg := config.Defaults()
		cfg.Ops.Addr, cfg.API.Addr = "127.0.0.1:0", "127.0.0.1:0"
		*addr(cfg) = taken.Addr().String()
		a, err := New(Options{Config: cfg, Version: "test", Log: zap.NewNop(), Registry: NewRegistry()})
		if err != nil {
			t.Fatal(err)
		}
		if err := a.Run(t.Context()); !errors.Is(err, syscall.EADDRINUSE) || !strings.HasPrefix(err.Error(), setting+": ") {
			t.Errorf("%s is taken: %v", setting, err)
		}
	}
}

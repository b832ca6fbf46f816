package app

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"sync"
	"testing"
	"time"

	"github.com/smshooks/smshooks/config"
)

// serveLimited serves on loopback with a limited number of connections. A request for /slow sends to
// entered and waits until slow is closed.
func serveLimited(t *testing.T, most int) (addr string, entered, slow chan struct{}) {
	t.Helper()
	l, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	entered, slow = make(chan struct{}), make(chan struct{})
	ctx, stop := context.WithCancel(t.Context())
	var serving sync.WaitGroup
	h := http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/slow" {
			entered <- struct{}{}
			<-slow
		}
	})
	serving.Go(func() { serveHTTP(ctx, l, h, most, time.Second, time.Second) })
	t.Cleanup(func() { stop(); serving.Wait() })
	return l.Addr().String(), entered, slow
}

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
	addr, _, _ := serveLimited(t, 8)
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

// TestBusyConnectionsAreKept checks that a client's new connections wait while all of its connections carry requests,
// and that another client's replace the oldest.
func TestBusyConnectionsAreKept(t *testing.T) {
	addr, entered, slow := serveLimited(t, 3)
	var busy []net.Conn
	for range 3 {
		c := open(t, "127.0.0.3", addr)
		if err := ask(c, "/slow"); err != nil {
			t.Fatal(err)
		}
		<-entered
		busy = append(busy, c)
	}
	other := open(t, "127.0.0.4", addr)
	if err := ask(other, "/"); err != nil || answered(other) != nil {
		t.Error("one client has all connections, another one was not answered")
	}
	same := open(t, "127.0.0.3", addr)
	if err := ask(same, "/"); err != nil || answered(same) != nil {
		t.Error("an idle connection did not give way")
	}
	close(slow)
	for _, c := range busy[1:] {
		if err := answered(c); err != nil {
			t.Errorf("a busy connection: %v, want it answered", err)
		}
	}
}

// TestBusyConnectionsAreShared checks that several clients which share all connections do not lock out another one, and
// that a client with one connection keeps it.
func TestBusyConnectionsAreShared(t *testing.T) {
	addr, entered, slow := serveLimited(t, 8)
	request := func(client string) net.Conn {
		t.Helper()
		c := open(t, client, addr)
		if err := ask(c, "/slow"); err != nil {
			t.Fatal(err)
		}
		return c
	}
	modest := request("127.0.0.2")
	<-entered
	for i := range 7 {
		request(fmt.Sprintf("127.0.0.%d", 3+i%2))
		<-entered
	}
	for range 2 {
		other := open(t, "127.0.0.5", addr)
		if err := ask(other, "/"); err != nil || answered(other) != nil {
			t.Error("two clients have all connections, another one was not answered")
		}
	}
	close(slow)
	if err := answered(modest); err != nil {
		t.Errorf("the only connection of a client: %v, want it answered", err)
	}
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

package sender

import (
	"io"
	"net"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/smshooks/smshooks/test/peer"
)

// farAway is a proxy that delays data by a one-way latency.
func farAway(t *testing.T, to string, away time.Duration) (url string) {
	t.Helper()
	l, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Close() })
	go func() {
		for {
			near, err := l.Accept()
			if err != nil {
				return
			}
			far, err := net.Dial("tcp4", to)
			if err != nil {
				_ = near.Close()
				continue
			}
			go carry(far, near, away)
			go carry(near, far, away)
		}
	}()
	return "http://" + l.Addr().String() + "/hook"
}

// carry copies the data of a, and its end, to b with a delay.
func carry(b, a net.Conn, later time.Duration) {
	type piece struct {
		data []byte
		at   time.Time
	}
	way := make(chan piece, 100)
	go func() {
		defer close(way)
		for {
			data := make([]byte, 4096)
			n, err := a.Read(data)
			if n > 0 {
				way <- piece{data[:n], time.Now().Add(later)}
			}
			if err != nil {
				way <- piece{nil, time.Now().Add(later)}
				return
			}
		}
	}()
	for p := range way {
		time.Sleep(time.Until(p.at))
		if p.data == nil {
			_ = b.Close()
			continue
		}
		_, _ = b.Write(p.data) // the other side has disconnected
	}
}

// TestServerThatClosesAfterEachReply checks that none of thousands of requests fails at servers that close each
// connection after a reply, unannounced: at once, soon, or after a second, near or 100 ms away.
func TestServerThatClosesAfterEachReply(t *testing.T) {
	const requests, workers = 2500, 50
	for name, test := range map[string]struct{ after, away time.Duration }{
		"at once":              {0, 0},
		"after 5 ms":           {5 * time.Millisecond, 0},
		"after 5 ms, far away": {5 * time.Millisecond, 50 * time.Millisecond},
		"after 1 s, far away":  {time.Second, 50 * time.Millisecond},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			p := peer.New(t, func(c net.Conn, n int32) bool {
				_, err := io.WriteString(c, "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
				time.AfterFunc(test.after, func() { _ = c.Close() })
				return err == nil && test.after > 0
			})
			url := p.URL
			if test.away > 0 {
				url = farAway(t, p.Addr, test.away)
			}
			s := newSender(t, nil)
			var (
				all    sync.WaitGroup
				failed atomic.Int32
			)
			for range workers {
				all.Go(func() {
					for range requests / workers {
						if out := s.Send(t.Context(), request(t, url)); out.Failure != "" {
							if failed.Add(1) == 1 {
								t.Errorf("%+v", out)
							}
						}
					}
				})
			}
			all.Wait()
			if n := failed.Load(); n > 0 {
				t.Errorf("%d of %d requests failed", n, requests)
			}
			t.Log(p.Requests.Load(), "requests on", p.Connections.Load(), "connections")
		})
	}
}

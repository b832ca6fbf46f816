package app

import (
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
	"go.uber.org/zap/zaptest/observer"
)

// A failing condition is logged once, and once more when it holds again.
func TestWatchReadiness(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		core, lines := observer.New(zapcore.InfoLevel)
		var away atomic.Bool
		checks := []check{
			{"kafka", func(context.Context) error {
				if away.Load() {
					return errors.New("no answer")
				}
				return nil
			}},
			{"config", func(context.Context) error { return nil }},
		}
		ctx, stop := context.WithCancel(t.Context())
		done := make(chan struct{})
		go func() {
			defer close(done)
			watchReadiness(ctx, checks, zap.New(core))
		}()
		want := func(what string, messages ...string) {
			t.Helper()
			got := lines.TakeAll()
			for i, m := range messages {
				if len(got) != len(messages) || got[i].Message+" "+got[i].ContextMap()["check"].(string) != m {
					t.Fatalf("%s: %v, want %v", what, got, messages)
				}
			}
			if len(messages) == 0 && len(got) > 0 {
				t.Fatalf("%s: %v", what, got)
			}
		}
		time.Sleep(time.Minute)
		want("at the start", "readiness check passed kafka", "readiness check passed config")
		away.Store(true)
		time.Sleep(time.Minute)
		want("Kafka away", "readiness check failed kafka")
		away.Store(false)
		time.Sleep(time.Minute)
		want("Kafka back", "readiness check passed kafka")
		stop()
		<-done
		want("at the end")
		away.Store(true)
		ctx, stop = context.WithCancel(t.Context())
		go watchReadiness(ctx, checks, zap.New(core))
		time.Sleep(20 * time.Second)
		want("a start without Kafka", "readiness check passed config")
		time.Sleep(time.Minute)
		want("a start without Kafka, later", "readiness check failed kafka")
		stop()
	})
}

// single is a listener with one connection.
type single struct{ conn net.Conn }

func (s *single) Accept() (net.Conn, error) {
	if s.conn == nil {
		return nil, io.EOF
	}
	c := s.conn
	s.conn = nil
	return c, nil
}
func (*single) Close() error   { return nil }
func (*single) Addr() net.Addr { return &net.TCPAddr{} }

// A client that reads no response holds its connection for minWriteTimeout only.
func TestClientReadsNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		near, far := net.Pipe()
		began, ended := time.Now(), make(chan time.Duration, 1)
		ctx, stop := context.WithCancel(t.Context())
		h := http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			for {
				if _, err := w.Write(make([]byte, 64<<10)); err != nil {
					ended <- time.Since(began)
					return
				}
			}
		})
		var serving sync.WaitGroup
		serving.Go(func() { serveHTTP(ctx, &single{conn: far}, h, 10, time.Second, time.Second, zap.NewNop()) })
		if _, err := near.Write([]byte("GET / HTTP/1.1\r\nHost: x\r\n\r\n")); err != nil {
			t.Fatal(err)
		}
		if took := <-ended; took != minWriteTimeout {
			t.Errorf("it ended after %v, want %v", took, minWriteTimeout)
		}
		stop()
		serving.Wait()
		_ = near.Close()
	})
}

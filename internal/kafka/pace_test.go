package kafka

import (
	"context"
	"io"
	"net"
	"testing"
	"testing/synctest"
	"time"

	"github.com/twmb/franz-go/pkg/kmsg"
)

// TestPace checks that fetches of a connection are spaced. The first one after a pause, and all other requests, are
// sent at once.
func TestPace(t *testing.T) {
	fetch := kmsg.NewRequestFormatter().AppendRequest(nil, kmsg.NewPtrFetchRequest(), 1)
	commit := kmsg.NewRequestFormatter().AppendRequest(nil, kmsg.NewPtrOffsetCommitRequest(), 1)
	synctest.Test(t, func(t *testing.T) {
		near, far := net.Pipe()
		dial := paceFetches(func(context.Context, string, string) (net.Conn, error) { return near, nil })
		conn, err := dial(t.Context(), "tcp", "broker:9092")
		if err != nil {
			t.Fatal(err)
		}
		go io.Copy(io.Discard, far) //nolint:errcheck // ends when the pipe is closed
		defer far.Close()
		defer conn.Close()
		write := func(request []byte) time.Duration {
			began := time.Now()
			if n, err := conn.Write(request); err != nil || n != len(request) {
				t.Fatal(n, err)
			}
			return time.Since(began)
		}
		for _, c := range []struct {
			request     []byte
			after, want time.Duration
		}{
			{fetch, 0, 0},
			{fetch, 0, fetchPace},
			{fetch, time.Millisecond, fetchPace - time.Millisecond},
			{commit, 0, 0},
			{[]byte("x"), 0, 0},
			{fetch, 0, fetchPace},
			{fetch, time.Second, 0},
		} {
			time.Sleep(c.after)
			if waited := write(c.request); waited != c.want {
				t.Errorf("request of %d bytes after %v waited %v, want %v", len(c.request), c.after, waited, c.want)
			}
		}
	})
}

func TestPaceDialError(t *testing.T) {
	dial := paceFetches(func(context.Context, string, string) (net.Conn, error) { return nil, io.ErrClosedPipe })
	if conn, err := dial(t.Context(), "tcp", "broker:9092"); conn != nil || err == nil {
		t.Errorf("%v, %v", conn, err)
	}
}

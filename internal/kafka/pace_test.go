package kafka

import (
	"context"
	"io"
	"net"
	"testing"
	"testing/synctest"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"
)

// TestPace checks that fetches of a connection are spaced, and that the first one after a pause and all other requests
// are sent at once.
func TestPace(t *testing.T) {
	fetch := kmsg.NewRequestFormatter().AppendRequest(nil, kmsg.NewPtrFetchRequest(), 1)
	commit := kmsg.NewRequestFormatter().AppendRequest(nil, kmsg.NewPtrOffsetCommitRequest(), 1)
	synctest.Test(t, func(t *testing.T) {
		near, far := net.Pipe()
		pacer := new(pacer)
		dial := pacer.over(func(context.Context, string, string) (net.Conn, error) { return near, nil })
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
		for i, c := range []struct {
			request []byte
			after   time.Duration
			records int
			want    time.Duration
		}{
			{fetch, 0, 0, 0},
			{fetch, 0, 0, minPace},
			{fetch, time.Millisecond, 3, maxPace - time.Millisecond}, // 3 within 3 ms
			{commit, 0, 0, 0},
			{[]byte("x"), 0, 0, 0},
			{fetch, 0, 10 * bunch, minPace},
			{fetch, time.Millisecond, bunch, minPace}, // bunch within 3 ms, of which one has passed
			{fetch, time.Second, 1, 0},
			{fetch, time.Millisecond, 1, maxPace - time.Millisecond},
		} {
			time.Sleep(c.after)
			pacer.OnFetchBatchRead(kgo.BrokerMetadata{}, "", 0, kgo.FetchBatchMetrics{NumRecords: c.records})
			if waited := write(c.request); waited != c.want {
				t.Errorf("step %d waited %v, want %v", i, waited, c.want)
			}
		}
	})
}

func TestSpacing(t *testing.T) {
	for _, c := range []struct {
		in      time.Duration
		records int64
		want    time.Duration
	}{
		{maxPace, 0, minPace},
		{maxPace, few - 1, minPace},
		{maxPace, few, maxPace},
		{maxPace, bunch, maxPace},
		{maxPace, 5 * bunch, maxPace / 5},
		{maxPace, 1000 * bunch, minPace},
		{0, 1, minPace},
		{1 << 62, 1, minPace}, // since the zero time
		{time.Millisecond, 1, maxPace},
		{250 * time.Millisecond, 1, minPace},
	} {
		if got := spacing(c.in, c.records); got != c.want {
			t.Errorf("%d records in %v: %v, want %v", c.records, c.in, got, c.want)
		}
	}
}

func TestPaceDialError(t *testing.T) {
	dial := new(pacer).over(func(context.Context, string, string) (net.Conn, error) { return nil, io.ErrClosedPipe })
	if conn, err := dial(t.Context(), "tcp", "broker:9092"); conn != nil || err == nil {
		t.Errorf("%v, %v", conn, err)
	}
}

package receiver_test

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/smshooks/smshooks/tools/bench/bare"
	"github.com/smshooks/smshooks/tools/bench/proc"
	"github.com/smshooks/smshooks/tools/bench/receiver"
	"github.com/smshooks/smshooks/tools/bench/result"
)

// running is a receiver in this process.
type running struct {
	addr  string
	in    io.Writer
	notes *json.Decoder
}

func run(t *testing.T, closing bool) *running {
	t.Helper()
	in, commands := io.Pipe()
	notes, out := io.Pipe()
	done := make(chan error, 1)
	go func() {
		done <- receiver.Run(context.Background(), receiver.Config{Listen: "127.0.0.1:0", Close: closing}, in, out)
	}()
	t.Cleanup(func() {
		commands.Close()
		go func() { _, _ = io.Copy(io.Discard, notes) }()
		select {
		case err := <-done:
			if err != nil {
				t.Error(err)
			}
		case <-time.After(10 * time.Second):
			t.Error("the receiver still runs after the end of its input")
		}
	})
	r := &running{in: commands, notes: json.NewDecoder(notes)}
	r.addr = r.next(t, "listening").Addr
	return r
}

func (r *running) next(t *testing.T, event string) proc.Note {
	t.Helper()
	var n proc.Note
	if err := r.notes.Decode(&n); err != nil || n.Event != event {
		t.Fatalf("note %+v, %v; want %s", n, err, event)
	}
	return n
}

func (r *running) arm(t *testing.T, skip, count int) {
	t.Helper()
	fmt.Fprintf(r.in, "arm %d %d\n", skip, count)
	r.next(t, "armed")
}

func (r *running) post(body string) error {
	resp, err := http.Post("http://"+r.addr+"/x", "text/plain", strings.NewReader(body))
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if rest, err := io.ReadAll(resp.Body); err != nil || resp.StatusCode != http.StatusOK || len(rest) > 0 {
		return fmt.Errorf("status %d, body %q, %w", resp.StatusCode, rest, err)
	}
	return nil
}

func TestCounts(t *testing.T) {
	for _, closing := range []bool{false, true} {
		r := run(t, closing)
		r.arm(t, 2, 3)
		var sent atomic.Int64
		failed := make(chan error, 1)
		go func() {
			for range 6 {
				if err := r.post("sms=x"); err != nil {
					failed <- err
					return
				}
				sent.Add(1)
			}
			failed <- nil
		}()
		r.next(t, "first")
		if n := sent.Load(); n < 2 {
			t.Errorf("first after %d requests were answered, want 2", n)
		}
		done := r.next(t, "done")
		if done.First.After(done.Last) || time.Since(done.First) > time.Minute {
			t.Errorf("first %v, last %v", done.First, done.Last)
		}
		if err := <-failed; err != nil {
			t.Fatal(err)
		}
	}
}

func TestLatency(t *testing.T) {
	r := run(t, false)
	r.arm(t, 0, 1)
	at := time.Now().Add(-250 * time.Millisecond)
	failed := make(chan error, 1)
	go func() { failed <- r.post(fmt.Sprintf("a%%22%s%d%%22", receiver.Mark, at.UnixNano())) }()
	r.next(t, "first")
	f := r.next(t, "done").Figures
	if p50 := f[result.P50]; p50 < 250 || p50 > 10_000 || f[result.P99] != p50 {
		t.Errorf("figures %v, want slightly more than 250 ms", f)
	}
	if err := <-failed; err != nil {
		t.Fatal(err)
	}
}

func TestLongBodies(t *testing.T) {
	r := run(t, false)
	for _, size := range []int{0, 8 << 10, 100_000} {
		if err := r.post(strings.Repeat("x", size)); err != nil {
			t.Errorf("%d bytes: %v", size, err)
		}
	}
}

// TestBareClient checks that the receiver counts as many requests as the bare client sends.
func TestBareClient(t *testing.T) {
	record := []byte(`{"user_id":42,"sms":{"id":1}}`)
	for _, closing := range []bool{false, true} {
		r := run(t, closing)
		const requests = 200
		r.arm(t, 0, requests)
		failed := make(chan error, 1)
		go func() {
			failed <- bare.Run(context.Background(), bare.Config{Addr: r.addr, Conns: 8, Requests: requests, Record: record})
		}()
		r.next(t, "first")
		r.next(t, "done")
		if err := <-failed; err != nil {
			t.Error(err)
		}
	}
	if err := bare.Run(context.Background(), bare.Config{Addr: "127.0.0.1:1", Conns: 2, Requests: 2, Record: record}); err == nil {
		t.Error("no error without a listener")
	}
}

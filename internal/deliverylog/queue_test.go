package deliverylog

import (
	"context"
	"testing"
	"time"

	"github.com/alicebob/miniredis/v2"
	"github.com/redis/go-redis/v9"
	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
	"go.uber.org/zap/zaptest/observer"

	"github.com/smshooks/smshooks/pkg/webhook"
)

// TestFullQueueEnds checks that a line says when the queue is empty after rows were dropped.
func TestFullQueueEnds(t *testing.T) {
	mini := miniredis.RunT(t)
	rdb := redis.NewClient(&redis.Options{Addr: mini.Addr()})
	defer rdb.Close()
	core, lines := observer.New(zapcore.InfoLevel)
	l := New(rdb, "", func(int) {}, zap.New(core))
	for i := range room + 1 {
		l.Add(attempt(42, i, webhook.DLR, ""))
	}
	ctx, stop := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() { defer close(done); l.Run(ctx) }()
	for deadline := time.Now().Add(10 * time.Second); lines.FilterMessageSnippet("empty again").Len() == 0; <-time.After(5 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("no line: %v", lines.All())
		}
	}
	stop()
	<-done
	if lines.Len() != 2 {
		t.Errorf("%d lines, want a beginning and an end", lines.Len())
	}
}

// TestQueue checks that rows leave the queue in their order, that its memory is reused, and when it wakes its reader.
func TestQueue(t *testing.T) {
	q, next := newQueue(), 0
	woken := func() bool {
		select {
		case <-q.wake:
			return true
		default:
			return false
		}
	}
	for round := range 3 {
		for i := range room + 1 {
			if ok := q.push(&q.attempts, attempt(42, i, webhook.DLR, "")); ok != (i < room) {
				t.Fatalf("push of row %d returned %v", i, ok)
			}
			if want := i == 0 || i == batchMax-1; woken() != want {
				t.Errorf("woken after row %d: %v, want %v", i, !want, want)
			}
		}
		if !q.push(&q.notes, attempt(42, 1, webhook.DLR, "")) {
			t.Error("attempts take the room of notes")
		}
		for next = 0; ; {
			c := q.pop(&q.attempts)
			if c == nil {
				break
			}
			for _, a := range c {
				if a.Offset != int64(next) {
					t.Fatalf("round %d: row %d after %d rows", round, a.Offset, next)
				}
				next++
			}
			q.recycle(c)
		}
		if next != room || len(q.spare) != spares {
			t.Errorf("%d rows left the queue, want %d; %d spare chunks", next, room, len(q.spare))
		}
		q.recycle(q.pop(&q.notes))
		if n := q.len(); n != 0 {
			t.Errorf("%d rows are left", n)
		}
	}
}

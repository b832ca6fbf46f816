package settings

import (
	"context"
	"time"
)

// backoff waits longer each time, from 50 ms to 2 s.
type backoff struct{ next time.Duration }

func newBackoff() *backoff { return &backoff{next: 50 * time.Millisecond} }

func (b *backoff) wait(ctx context.Context) error {
	d := b.next
	b.next = min(2*b.next, 2*time.Second)
	return sleep(ctx, d)
}

// sleep waits for d or for ctx's end, whose error it returns.
func sleep(ctx context.Context, d time.Duration) error {
	select {
	case <-time.After(d):
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

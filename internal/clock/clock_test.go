package clock

import (
	"context"
	"errors"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
	"go.uber.org/zap/zaptest/observer"
)

// TestClock checks that time is continuous, whatever the machine's clock is set to, unless the witness agrees with it.
func TestClock(t *testing.T) {
	const hour = time.Hour
	for name, c := range map[string]struct {
		step    time.Duration
		witness time.Duration // off from the true time
		away    bool
		want    time.Duration
		lines   int
	}{
		"not set":              {0, 0, false, 0, 0},
		"slewed":               {800 * time.Millisecond, 0, false, 800 * time.Millisecond, 0},
		"an hour ahead":        {hour, 0, false, 0, 1},
		"an hour behind":       {-hour, 0, false, 0, 1},
		"corrected":            {hour, hour, false, hour, 1},
		"corrected backwards":  {-hour, -hour - 300*time.Millisecond, false, -hour, 1},
		"no witness":           {hour, 0, true, 0, 1},
		"the witness is wrong": {3 * time.Second, -hour, false, 0, 1},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				core, lines := observer.New(zapcore.InfoLevel)
				clock := New(zap.New(core))
				var step atomic.Int64
				clock.machine = func() anchor {
					now := read()
					return anchor{now.day.Add(time.Duration(step.Load())), now.at}
				}
				ctx, stop := context.WithCancel(t.Context())
				done := make(chan struct{})
				go func() {
					defer close(done)
					clock.Run(ctx, func(context.Context) (time.Time, error) {
						if c.away {
							return time.Time{}, errors.New("away")
						}
						return time.Now().Add(c.witness), nil
					})
				}()
				off := func() time.Duration { return clock.Now().Sub(time.Now().Round(0)) }
				time.Sleep(10*time.Second + 1)
				step.Store(int64(c.step))
				if got := off(); got != 0 {
					t.Errorf("off by %v at the moment of the step", got)
				}
				time.Sleep(time.Minute)
				if got := off(); got != c.want {
					t.Errorf("off by %v a minute later, want %v", got, c.want)
				}
				if lines.Len() != c.lines {
					t.Errorf("%d lines, want %d: %v", lines.Len(), c.lines, lines.All())
				}
				step.Store(0) // set back
				time.Sleep(time.Minute)
				if got := off(); !c.away && c.witness == 0 && got != 0 {
					t.Errorf("off by %v when the machine's clock is right again", got)
				}
				stop()
				<-done
			})
		})
	}
}

// TestOneReading checks that an instance that is stopped during a reading does not fall behind the others: the due
// times that it writes would then be early by their clocks.
func TestOneReading(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := New(zap.NewNop())
		c.machine = func() anchor {
			now := read()
			time.Sleep(700 * time.Millisecond) // the machine is busy
			return now
		}
		for range 3 {
			c.look(t.Context(), nil)
			if off := c.Now().Sub(time.Now().Round(0)); off != 0 {
				t.Fatalf("off by %v", off)
			}
		}
	})
}

// BenchmarkNow measures the cost of a reading.
func BenchmarkNow(b *testing.B) {
	c := New(zap.NewNop())
	for b.Loop() {
		_ = c.Now()
	}
}

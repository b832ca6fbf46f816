// Package demo runs the whole service in one process and checks its counts at the end.
//
// It starts the embedded Kafka and Redis, four users whose receivers behave differently, the service as `serve` runs
// it, and a gateway that writes events of all four kinds. When all events are settled, the ledger compares what the
// gateway, Kafka and the receivers counted with the metrics of the service.
package demo

import (
	"context"
	"errors"
	"fmt"
	"os"
	"time"

	"go.uber.org/zap"

	"github.com/smshooks/smshooks/config"
)

const (
	frame        = 100 * time.Millisecond // between two updates of the screen
	spareTime    = 10 * time.Second       // for events that take longer than expected
	interruptMax = 15 * time.Second       // for draining after an interrupt
)

// Options configure a demo. All fields are required.
type Options struct {
	Config  *config.Config // changed by Shorten; Run points it at the embedded Kafka and Redis
	Length  time.Duration  // approximate duration
	Open    bool           // open the account page in a browser
	Version string
	Log     *zap.Logger
	Out     *os.File // the table is redrawn if this is a terminal
}

// Run runs the demo. It returns nil if the ledger balances. Otherwise the error says what differs, or what could not be
// started. When ctx ends, the gateway stops at once, and the ledger is computed after events in progress had time to
// finish.
func Run(ctx context.Context, o Options) error {
	s, err := start(ctx, o)
	if ctx.Err() != nil {
		return nil // stopped before anything was sent
	}
	if err != nil {
		return err
	}
	view := newScreen(o.Out)
	view.introduce(s)
	if o.Open {
		if err := openBrowser(s.page()); err != nil {
			view.line("  Cannot open a browser: " + err.Error())
		}
	}
	err = s.play(ctx, view, spareTime)
	return errors.Join(err, s.close())
}

// play emits events, waits until they are settled, at most spare longer than expected, and shows the ledger.
func (s *setup) play(ctx context.Context, view *screen, spare time.Duration) error {
	if err := s.emit(ctx, view); err != nil {
		return err
	}
	f, err := s.drain(ctx, view, spare)
	if err != nil {
		return err
	}
	checks := balance(f)
	view.ledger(checks, f, s.Config.Topics.DeadLetter)
	return verdict(checks, f)
}

// emit runs the gateway until its time has passed or ctx ends.
func (s *setup) emit(ctx context.Context, view *screen) error {
	running, stop := context.WithCancel(ctx)
	defer stop()
	emitted := make(chan error, 1)
	go func() { emitted <- s.gateway.run(running, s.began) }()
	ticker := time.NewTicker(frame)
	defer ticker.Stop()
	for {
		select {
		case err := <-emitted:
			return err
		case err := <-s.ended:
			stop()
			return errors.Join(errEnded(err), <-emitted)
		case <-ticker.C:
			f, err := s.counts()
			if err != nil {
				return err
			}
			view.progress(s, f, "sending")
		}
	}
}

// drain waits until all events are settled and returns the facts for the ledger.
func (s *setup) drain(ctx context.Context, view *screen, spare time.Duration) (facts, error) {
	deadline := time.Now().Add(min(s.longest(), s.Length) + spare)
	ticker := time.NewTicker(frame)
	defer ticker.Stop()
	interrupted := ctx.Done()
	phase := "finishing events in progress"
	// An interrupt shows the ledger soon. A second one ends the process at once.
	asking := context.WithoutCancel(ctx)
	var last facts
	for {
		f, err := s.facts(asking)
		if err != nil {
			return f, err
		}
		view.progress(s, f.counts, phase)
		// Kafka and the service are read one after the other, so a record may be counted by only one of them.
		if done := f == last && f.final(); done || time.Now().After(deadline) {
			return f, nil
		}
		last = f
		select {
		case err := <-s.ended:
			return f, errEnded(err)
		case <-interrupted:
			interrupted = nil
			phase = "stopping: interrupt again to exit at once"
			if limit := time.Now().Add(interruptMax); limit.Before(deadline) {
				deadline = limit
			}
		case <-ticker.C:
		}
	}
}

func errEnded(err error) error {
	if err == nil {
		err = errors.New("no error given")
	}
	return fmt.Errorf("the service stopped unexpectedly: %w", err)
}

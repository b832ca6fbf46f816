// Package demo shows the whole service at work in one process, and checks its books at the end.
//
// It starts the embedded Kafka and Redis, four users with receivers of different manners, the service itself as
// `serve` runs it, and a gateway that emits all four kinds. When everything has come to its end, the ledger compares
// what the gateway, Kafka and the receivers counted with what the service says it did.
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
	frame        = 100 * time.Millisecond // between two looks at the figures
	spareTime    = 10 * time.Second       // for what should have drained by itself
	interruptMax = 15 * time.Second       // for draining after a signal
)

// Options of a demo; all are needed.
type Options struct {
	Config  *config.Config // changed by Shorten; Run points it at the embedded Kafka and Redis
	Length  time.Duration  // how long the show takes, a few seconds more or less
	Open    bool           // open the page in a browser
	Version string
	Log     *zap.Logger
	Out     *os.File // the table is redrawn if this is a terminal
}

// Run gives the demo. A nil error means that the ledger balances; else the error says what differs, or what could not
// be started. When ctx ends the gateway stops at once, what is on its road still gets a moment to come to its end,
// and the ledger is drawn up.
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
			view.line("  No browser could be opened: " + err.Error())
		}
	}
	err = s.play(ctx, view, spareTime)
	return errors.Join(err, s.close())
}

// play emits, waits until everything has come to its end (at most so much longer than it should take), and draws up
// the ledger.
func (s *stage) play(ctx context.Context, view *screen, spare time.Duration) error {
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

// emit lets the gateway send until its time is over or ctx ends.
func (s *stage) emit(ctx context.Context, view *screen) error {
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
			f, err := s.figures()
			if err != nil {
				return err
			}
			view.progress(s, f, "sending")
		}
	}
}

// drain waits until nothing is on its road any more and gives the facts for the ledger.
func (s *stage) drain(ctx context.Context, view *screen, spare time.Duration) (facts, error) {
	deadline := time.Now().Add(min(s.longest(), s.Length) + spare)
	ticker := time.NewTicker(frame)
	defer ticker.Stop()
	interrupted := ctx.Done()
	phase := "letting everything come to its end"
	// Whoever interrupted has the ledger soon, and a second signal ends the process at once.
	asking := context.WithoutCancel(ctx)
	var last facts
	for {
		f, err := s.facts(asking)
		if err != nil {
			return f, err
		}
		view.progress(s, f.figures, phase)
		// Kafka and the service are asked one after the other, so one look may catch a record in between.
		if done := f == last && f.final(); done || time.Now().After(deadline) {
			return f, nil
		}
		last = f
		select {
		case err := <-s.ended:
			return f, errEnded(err)
		case <-interrupted:
			interrupted = nil
			phase = "stopping: once more ends at once"
			if limit := time.Now().Add(interruptMax); limit.Before(deadline) {
				deadline = limit
			}
		case <-ticker.C:
		}
	}
}

func errEnded(err error) error {
	if err == nil {
		err = errors.New("it gave no reason")
	}
	return fmt.Errorf("the service ended by itself: %w", err)
}

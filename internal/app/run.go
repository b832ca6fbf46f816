package app

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"time"

	"go.uber.org/zap"
)

// opsTimeout is how long the operations listener waits for requests in flight.
const opsTimeout = 2 * time.Second

// spansTimeout is how long sending the last spans may take.
const spansTimeout = time.Second

// Run runs the service until ctx ends or a part fails, then stops it within shutdown.grace. It returns the failure, or
// nil.
func (a *App) Run(ctx context.Context) error {
	ops, public, err := a.listen()
	if err != nil {
		a.close()
		return err
	}
	a.reportListening(public)
	for _, warning := range a.Config.Warnings() {
		a.Log.Warn(warning)
	}
	b, g := budgetOf(a.Config.Shutdown.Grace), newGroup(ctx)
	checked, started := make(chan struct{}), make(chan struct{})

	g.serve("operations listener", noError(func(ctx context.Context) { a.serveOps(ctx, ops) }))
	g.serve("clients", noError(func(ctx context.Context) { <-ctx.Done(); a.close() }))
	g.serve("clock", noError(func(ctx context.Context) { a.clock.Run(ctx, a.redisTime) }))
	g.serve("readiness", noError(func(ctx context.Context) { watchReadiness(ctx, a.checks(), a.Log) }))
	if !a.Embedded { // the Redis inside the process evicts nothing and has no policy to read
		g.serve("Redis health", noError(a.redisHealth.watch))
	}
	g.serve("topics", after(checked, noError(a.watcher.Run)))
	g.serve("settings", after(checked, a.store.Run))
	g.serve("API keys", after(checked, a.keys.Run))
	g.serve("delivery log", noError(a.deliveries.Run))
	if a.releases != nil {
		g.serve("releases", after(checked, a.releases.Run))
	}
	if a.api != nil {
		g.serve("account page", noError(a.api.page.Run))
		g.work("API", noError(func(ctx context.Context) { a.serveAPI(ctx, public, b.api) }))
	}
	g.work("start", func(ctx context.Context) error { return a.start(ctx, checked, started) })
	if a.tracing != nil {
		g.serve("tracing", noError(a.closeTracing))
	}
	if a.pipeline != nil {
		g.work("orphaned topics", after(started, noError(a.watchOrphaned)))
		a.pipeline.start(g, started, b.pipeline)
	}
	return g.wait(b, a.cutOff)
}

// after returns a function that calls run once ready is closed, or not at all if its context ends before.
func after(ready <-chan struct{}, run func(context.Context) error) func(context.Context) error {
	return func(ctx context.Context) error {
		select {
		case <-ctx.Done():
			return nil
		case <-ready:
			return run(ctx)
		}
	}
}

// noError returns a function that calls run, which cannot fail.
func noError(run func(context.Context)) func(context.Context) error {
	return func(ctx context.Context) error { run(ctx); return nil }
}

// start checks the topics and waits for the settings. It closes checked and started when that is done.
func (a *App) start(ctx context.Context, checked, started chan<- struct{}) error {
	if err := a.awaitTopics(ctx); err != nil {
		if ctx.Err() != nil {
			return nil // the error is a consequence of the stop
		}
		return err
	}
	if !a.Embedded {
		a.warnOfRisks(ctx)
	}
	close(checked)
	for _, loaded := range []<-chan struct{}{a.store.Loaded(), a.keys.Loaded()} {
		select {
		case <-ctx.Done():
			return nil
		case <-loaded:
		}
	}
	if a.pipeline != nil {
		a.pipeline.endpoints.Load(ctx)
	}
	a.Log.Info("settings and API keys loaded")
	close(started)
	return nil
}

func (a *App) redisTime(ctx context.Context) (time.Time, error) { return a.redis.Time(ctx).Result() }

// cutOff ends the calls that wait for Kafka or Redis.
func (a *App) cutOff() {
	a.cutOffKafka()
	_ = a.redis.Close()
}

// close closes the connections that several members share.
func (a *App) close() {
	if a.sender != nil {
		a.sender.Close()
	}
	a.redis.Close()
	a.admin.Close()
}

// closeTracing sends the last spans when ctx ends.
func (a *App) closeTracing(ctx context.Context) {
	<-ctx.Done()
	last, cancel := context.WithTimeout(context.Background(), spansTimeout)
	defer cancel()
	if err := a.tracing.Close(last); err != nil {
		a.Log.Warn("last spans were not sent", zap.Error(err))
	}
}

// listen opens the listeners; public is nil without the role api.
func (a *App) listen() (ops, public net.Listener, err error) {
	if ops, err = listen("ops.addr", a.Config.Ops.Addr, a.OpsListener); err != nil || a.api == nil {
		return ops, nil, err
	}
	if public, err = listen("api.addr", a.Config.API.Addr, a.APIListener); err != nil {
		return nil, nil, errors.Join(err, ops.Close())
	}
	return ops, public, nil
}

func (a *App) reportListening(public net.Listener) {
	switch {
	case a.Listening == nil:
	case public == nil:
		a.Listening(nil)
	default:
		a.Listening(public.Addr())
	}
}

// listen returns given, or a new listener on the address that a setting names.
func listen(setting, addr string, given net.Listener) (net.Listener, error) {
	if given != nil {
		return given, nil
	}
	l, err := net.Listen("tcp", addr)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", setting, err)
	}
	return l, nil
}

func (a *App) serveOps(ctx context.Context, l net.Listener) {
	var level http.Handler
	if a.LogLevel != nil {
		level = levelHandler(a.LogLevel, a.Log)
	}
	a.Log.Info("operations listener started", zap.String("addr", l.Addr().String()))
	serveHTTP(ctx, l, opsHandler(a.Registry, a.checks(), level), opsConnections, probeTimeout, opsTimeout, a.Log)
}

// serveAPI serves the API until ctx ends, and then waits at most wait for requests in flight.
func (a *App) serveAPI(ctx context.Context, l net.Listener, wait time.Duration) {
	a.Log.Info("API listener started", zap.String("addr", l.Addr().String()))
	serveHTTP(ctx, l, a.api.handler, a.share.api, a.Config.Dispatch.Timeout, wait, a.Log)
	a.api.letters.Close()
}

// checks are the conditions of readiness.
func (a *App) checks() []check {
	checks := []check{
		{"kafka", func(ctx context.Context) error { return a.admin.Ping(ctx) }},
		{"topics", func(context.Context) error { return a.watcher.Problem() }},
		{"redis", a.redisHealth.ready},
		{"config", func(context.Context) error { return cmp.Or(a.store.Err(), a.keys.Err()) }},
	}
	if a.releases != nil {
		checks = append(checks, check{"releases", a.checkReleases})
	}
	if a.pipeline != nil {
		checks = append(checks, check{"group", func(context.Context) error { return a.pipeline.consumer.Joined() }},
			check{"storing", func(context.Context) error { return a.pipeline.forwarder.Problem() }})
	}
	return checks
}

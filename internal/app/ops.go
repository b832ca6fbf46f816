package app

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/http/pprof"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"
	"go.uber.org/zap"
)

const (
	probeTimeout  = time.Second      // bounds the questions behind one /readyz
	readinessLook = 2 * time.Second  // the pause between looks whether a condition has changed
	readinessSoon = 30 * time.Second // what a start may take without a word
)

// check is one condition of readiness; nil means fulfilled.
type check struct {
	name string
	ask  func(ctx context.Context) error
}

// advice is what a check reports of a condition that does not keep the service from being ready.
type advice struct{ error }

func isAdvice(err error) bool {
	var a advice
	return errors.As(err, &a)
}

// askAll asks all at once, for probeTimeout at most.
func askAll(ctx context.Context, checks []check) []error {
	ctx, cancel := context.WithTimeout(ctx, probeTimeout)
	defer cancel()
	errs := make([]error, len(checks))
	var wg sync.WaitGroup
	for i, c := range checks {
		wg.Go(func() { errs[i] = c.ask(ctx) })
	}
	wg.Wait()
	return errs
}

// watchReadiness logs, until ctx ends, when a condition of readiness is not fulfilled any more and when it is again; at the
// start, where none is, only once it has taken long.
func watchReadiness(ctx context.Context, checks []check, log *zap.Logger) {
	ticker := time.NewTicker(readinessLook)
	defer ticker.Stop()
	const unknown, ready, unready = 0, 1, 2
	states := make([]int, len(checks))
	for began := time.Now(); ; {
		for i, err := range askAll(ctx, checks) {
			if ctx.Err() != nil {
				return
			}
			if isAdvice(err) {
				continue // who gives it logs it
			}
			switch {
			case err == nil && states[i] != ready:
				states[i] = ready
				log.Info("ready", zap.String("check", checks[i].name))
			case err != nil && (states[i] == ready || states[i] == unknown && time.Since(began) > readinessSoon):
				states[i] = unready
				log.Warn("not ready", zap.String("check", checks[i].name), zap.Error(err))
			}
		}
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
		}
	}
}

// opsHandler serves /metrics, /healthz, /readyz, the profiles below /debug/pprof/ and, unless level is nil, /loglevel.
func opsHandler(gatherer prometheus.Gatherer, checks []check, level http.Handler) http.Handler {
	mux := http.NewServeMux()
	mux.Handle("GET /metrics", promhttp.HandlerFor(gatherer, promhttp.HandlerOpts{}))
	// Without pprof's cmdline: flags may hold secrets.
	mux.HandleFunc("GET /debug/pprof/", pprof.Index)
	mux.HandleFunc("GET /debug/pprof/profile", pprof.Profile)
	mux.HandleFunc("GET /debug/pprof/trace", pprof.Trace)
	mux.HandleFunc("GET /debug/pprof/cmdline", http.NotFound)
	if level != nil {
		mux.Handle("GET /loglevel", level)
		mux.Handle("PUT /loglevel", level)
	}
	mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, _ *http.Request) { fmt.Fprintln(w, "alive") })
	mux.HandleFunc("GET /readyz", func(w http.ResponseWriter, r *http.Request) {
		reasons, notes := "", ""
		for i, err := range askAll(r.Context(), checks) {
			switch {
			case isAdvice(err):
				notes += fmt.Sprintf("%s: %v\n", checks[i].name, err)
			case err != nil:
				reasons += fmt.Sprintf("%s: %v\n", checks[i].name, err)
			}
		}
		if reasons != "" {
			w.WriteHeader(http.StatusServiceUnavailable)
			fmt.Fprint(w, reasons+notes)
			return
		}
		fmt.Fprint(w, "ready\n"+notes)
	})
	return mux
}

// leastAnswerTime is what an answer may take to be taken, at least: a client that reads nothing holds a connection so long.
const leastAnswerTime = 2 * time.Minute

// serveHTTP serves h on l until ctx ends, then gives requests in flight so long to end. slowest is what answering may
// take. At most so many connections are held.
func serveHTTP(ctx context.Context, l net.Listener, h http.Handler, connections int, slowest, wait time.Duration) {
	limited := limitListener(l, connections)
	server := &http.Server{
		Handler: h, ConnState: limited.changed, MaxHeaderBytes: 32 << 10,
		ReadHeaderTimeout: 5 * time.Second, ReadTimeout: 30 * time.Second, IdleTimeout: 2 * time.Minute,
		WriteTimeout: max(leastAnswerTime, slowest+30*time.Second),
	}
	served := make(chan struct{})
	go func() {
		defer close(served)
		_ = server.Serve(limited) // ends with ErrServerClosed
	}()
	<-ctx.Done()
	ending, cancel := context.WithTimeout(context.Background(), wait)
	defer cancel()
	if server.Shutdown(ending) != nil {
		_ = server.Close()
	}
	<-served
}

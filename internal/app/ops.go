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

	"github.com/smshooks/smshooks/internal/outage"
)

const (
	probeTimeout   = time.Second      // bounds the checks of one /readyz
	readinessPause = 5 * time.Second  // between two checks for the log
	readinessQuiet = 30 * time.Second // how long a start may take before unfulfilled conditions are logged
)

// check is one condition of readiness. run returns nil if it is fulfilled.
type check struct {
	name string
	run  func(ctx context.Context) error
}

// advice is an error that /readyz shows without making the service unready.
type advice struct{ error }

func isAdvice(err error) bool {
	var a advice
	return errors.As(err, &a)
}

// runAll runs all checks at the same time, for at most probeTimeout.
func runAll(ctx context.Context, checks []check) []error {
	ctx, cancel := context.WithTimeout(ctx, probeTimeout)
	defer cancel()
	errs := make([]error, len(checks))
	var wg sync.WaitGroup
	for i, c := range checks {
		wg.Go(func() { errs[i] = c.run(ctx) })
	}
	wg.Wait()
	return errs
}

// watchReadiness logs, until ctx ends, when a condition of readiness fails and when it is fulfilled again. At the
// start, failing conditions are logged after readinessQuiet only.
func watchReadiness(ctx context.Context, checks []check, log *zap.Logger) {
	ticker := time.NewTicker(readinessPause)
	defer ticker.Stop()
	const unknown, ready, unready = 0, 1, 2
	states := make([]int, len(checks))
	for began := time.Now(); ; {
		for i, err := range runAll(ctx, checks) {
			if ctx.Err() != nil {
				return
			}
			if isAdvice(err) {
				continue // the check logs it
			}
			switch {
			case err == nil && states[i] != ready:
				states[i] = ready
				log.Info("readiness check passed", zap.String("check", checks[i].name))
			case err != nil && (states[i] == ready || states[i] == unknown && time.Since(began) > readinessQuiet):
				states[i] = unready
				log.Warn("readiness check failed", zap.String("check", checks[i].name), zap.Error(err))
			}
		}
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
		}
	}
}

// opsHandler serves /metrics, /healthz, /readyz, /debug/pprof/ and, unless level is nil, /loglevel.
func opsHandler(gatherer prometheus.Gatherer, checks []check, level http.Handler) http.Handler {
	mux := http.NewServeMux()
	mux.Handle("GET /metrics", promhttp.HandlerFor(gatherer, promhttp.HandlerOpts{}))
	// pprof's cmdline is not served: flags may contain secrets.
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
		problems, notes := "", ""
		for i, err := range runAll(r.Context(), checks) {
			switch {
			case isAdvice(err):
				notes += fmt.Sprintf("%s: %v\n", checks[i].name, err)
			case err != nil:
				problems += fmt.Sprintf("%s: %v\n", checks[i].name, err)
			}
		}
		if problems != "" {
			w.WriteHeader(http.StatusServiceUnavailable)
			fmt.Fprint(w, problems+notes)
			return
		}
		fmt.Fprint(w, "ready\n"+notes)
	})
	return mux
}

// minWriteTimeout is the shortest time a client has to read a response. A client that reads nothing holds a connection
// for as long.
const minWriteTimeout = 2 * time.Minute

// serveHTTP serves h on l until ctx ends, then waits for requests in flight for at most wait. slowest is how long a
// handler may take. At most maxConns connections are open.
func serveHTTP(
	ctx context.Context, l net.Listener, h http.Handler, maxConns int, slowest, wait time.Duration, log *zap.Logger,
) {
	limited := limitListener(l, maxConns, outage.New(log.With(zap.Stringer("addr", l.Addr())),
		"cannot accept connections; retrying", "connections are accepted again"))
	server := &http.Server{
		Handler: h, ConnState: limited.changed, MaxHeaderBytes: 32 << 10,
		ReadHeaderTimeout: 5 * time.Second, ReadTimeout: 30 * time.Second, IdleTimeout: 2 * time.Minute,
		WriteTimeout: max(minWriteTimeout, slowest+30*time.Second),
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

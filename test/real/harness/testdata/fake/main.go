// Command fake stands in for smshooks in the harness's own tests: it serves /readyz, ready at the second request, and
// /metrics, prints its arguments and settings, and ends with 0 on SIGTERM.
package main

import (
	"fmt"
	"net/http"
	"os"
	"os/signal"
	"strings"
	"sync/atomic"
	"syscall"
	"time"
)

func main() {
	fmt.Println(strings.Join(os.Args[1:], " "))
	for _, v := range os.Environ() {
		if strings.HasPrefix(v, "SMSHOOKS_") {
			fmt.Fprintln(os.Stderr, v)
		}
	}
	if os.Args[1] != "serve" {
		os.Exit(3)
	}
	stop := make(chan os.Signal, 1)
	signal.Notify(stop, syscall.SIGTERM)
	var asked atomic.Int64
	mux := http.NewServeMux()
	mux.HandleFunc("/readyz", func(w http.ResponseWriter, _ *http.Request) {
		if asked.Add(1) < 2 {
			w.WriteHeader(http.StatusServiceUnavailable)
			fmt.Fprint(w, "the first request")
		}
	})
	mux.HandleFunc("/metrics", func(w http.ResponseWriter, _ *http.Request) {
		fmt.Fprint(w, "smshooks_records_consumed_total{topic=\"a\"} 3\nsmshooks_settled_total{kind=\"dlr\",fate=\"delivered\"} 3\nsmshooks_buffered_records 0\n")
	})
	srv := &http.Server{Addr: os.Getenv("SMSHOOKS_OPS_ADDR"), Handler: mux, ReadHeaderTimeout: time.Second}
	go func() {
		fmt.Fprintln(os.Stderr, srv.ListenAndServe())
		os.Exit(1)
	}()
	<-stop
}

package app

import (
	"os"
	"testing"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/smshooks/smshooks/config"
)

// Of a line that repeats within a second some are left out, and counted.
func TestLogLinesDroppedAreCounted(t *testing.T) {
	out, err := os.CreateTemp(t.TempDir(), "log")
	if err != nil {
		t.Fatal(err)
	}
	defer out.Close()
	reg := prometheus.NewRegistry()
	log, err := NewCountedLogger(config.Log{Level: "info", Format: "json"}, out, reg)
	if err != nil {
		t.Fatal(err)
	}
	count := func() float64 {
		families, err := reg.Gather()
		if err != nil || len(families) != 1 || families[0].GetName() != "smshooks_log_lines_dropped_total" {
			t.Fatalf("gathered %v, %v", families, err)
		}
		return families[0].GetMetric()[0].GetCounter().GetValue()
	}
	for range 10 {
		log.Info("seldom")
	}
	if n := count(); n != 0 {
		t.Errorf("%v of 10 lines dropped", n)
	}
	for range 500 {
		log.Warn("again and again")
	}
	if n := count(); n < 400 {
		t.Errorf("%v of 500 lines dropped, want more than 400", n)
	}
}

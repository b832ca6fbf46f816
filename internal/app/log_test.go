package app

import (
	"net/http"
	"net/http/httptest"
	"os"
	"strings"
	"testing"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/smshooks/smshooks/config"
)

// A line that repeats within a second is sampled; omitted lines are counted.
func TestLogLinesDroppedAreCounted(t *testing.T) {
	out, err := os.CreateTemp(t.TempDir(), "log")
	if err != nil {
		t.Fatal(err)
	}
	defer out.Close()
	reg := prometheus.NewRegistry()
	log, _, err := NewServiceLogger(config.Log{Level: "info", Format: "json"}, out, reg)
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

// Lines that stderr does not accept any more are counted. The process continues.
func TestLogLinesLostAreCounted(t *testing.T) {
	reader, writer, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer writer.Close()
	reg := prometheus.NewRegistry()
	log, _, err := NewServiceLogger(config.Log{Level: "info", Format: "json"}, writer, reg)
	if err != nil {
		t.Fatal(err)
	}
	log.Info("read")
	reader.Close()
	log.Info("lost")
	log.Error("lost, too")
	families, err := reg.Gather()
	if err != nil {
		t.Fatal(err)
	}
	if n := families[0].GetMetric()[0].GetCounter().GetValue(); n != 2 {
		t.Errorf("%v lines counted as lost, want 2", n)
	}
}

// The level can be read and changed over HTTP. A change applies at once to loggers that are in use.
func TestLogLevelChanges(t *testing.T) {
	out, err := os.CreateTemp(t.TempDir(), "log")
	if err != nil {
		t.Fatal(err)
	}
	defer out.Close()
	log, level, err := NewServiceLogger(config.Log{Level: "info", Format: "json"}, out, prometheus.NewRegistry())
	if err != nil {
		t.Fatal(err)
	}
	part := log.Named("part")
	ops := opsHandler(prometheus.NewRegistry(), nil, levelHandler(level, log))
	ask := func(method, body string, code int, want string) {
		t.Helper()
		w := httptest.NewRecorder()
		r := httptest.NewRequest(method, "/loglevel", strings.NewReader(body))
		if method == "PUT" {
			r.Header.Set("Content-Type", "application/x-www-form-urlencoded") // as curl -d does
		}
		ops.ServeHTTP(w, r)
		if w.Code != code || !strings.Contains(w.Body.String(), want) {
			t.Errorf("%s %s: %d %s", method, body, w.Code, w.Body)
		}
	}
	part.Debug("line one")
	ask("GET", "", http.StatusOK, `{"level":"info"}`)
	ask("PUT", `{"level":"debug"}`, http.StatusOK, `{"level":"debug"}`)
	part.Debug("line two")
	ask("PUT", `{"level":"loud"}`, http.StatusBadRequest, "loud")
	ask("PUT", strings.Repeat(" ", 5000)+`{"level":"error"}`, http.StatusBadRequest, "too large")
	ask("POST", `{"level":"error"}`, http.StatusMethodNotAllowed, "")
	ask("GET", "", http.StatusOK, `{"level":"debug"}`)
	ask("PUT", `level=warn`, http.StatusOK, `{"level":"warn"}`)
	ask("PUT", ` {"level":"error"}`, http.StatusOK, `{"level":"error"}`)
	part.Warn("line three")
	written, err := os.ReadFile(out.Name())
	if err != nil {
		t.Fatal(err)
	}
	for text, want := range map[string]bool{"line one": false, "line two": true, "line three": false, `"msg":"log level changed","from":"info","to":"debug"`: true} {
		if strings.Contains(string(written), text) != want {
			t.Errorf("%s: written is %v in\n%s", text, !want, written)
		}
	}
}

package report

import (
	"encoding/xml"
	"errors"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/smshooks/smshooks/tools/bench/result"
)

func sample() *result.Report {
	s := &result.Scenario{Name: "throughput", Title: "a backlog", How: "So it is done."}
	for _, v := range []float64{14, 10, 11} {
		s.Row("smshooks", "one host").Add(result.Figures{result.CPU: v, result.Rate: 80_000})
	}
	s.Row("hand-written", "<one> host").Add(result.Figures{result.CPU: 30})
	s.Want("at most 12", "smshooks", "one host", result.CPU, true, 12)
	s.Want("at least 90,000", "smshooks", "one host", result.Rate, false, 90_000)
	s.Compare("CPU", result.CPU, "smshooks", "one host", "hand-written", "<one> host")
	return &result.Report{Machine: result.Machine{CPU: "a processor", Cores: 2}, Date: time.Unix(0, 0), RunsEach: 3, Scenarios: []*result.Scenario{s}}
}

func TestWrite(t *testing.T) {
	dir := t.TempDir()
	if err := Write(dir, sample()); err != nil {
		t.Fatal(err)
	}
	page, err := os.ReadFile(filepath.Join(dir, "performance.md"))
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{
		"| smshooks | one host | 11.0 | 80,000 |", "| hand-written | <one> host | 30.0 |  |", "CPU: **0.37**",
		"| at most 12 | 11.00 | met |", "| at least 90,000 | 80,000.00 | **not met** |", "![a backlog](images/perf-throughput-cpu-us.svg)",
		"a processor, 2 cores", "median of 3 runs",
	} {
		if !strings.Contains(string(page), want) {
			t.Errorf("no %q in\n%s", want, page)
		}
	}
	for _, name := range []string{"images/perf-throughput-cpu-us.svg", "images/perf-throughput-per-second.svg", "performance.json"} {
		if _, err := os.Stat(filepath.Join(dir, name)); err != nil {
			t.Error(err)
		}
	}
	again := t.TempDir()
	file, err := os.Open(filepath.Join(dir, "performance.json"))
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	r, err := result.Read(file)
	if err != nil {
		t.Fatal(err)
	}
	if err := Write(again, r); err != nil {
		t.Fatal(err)
	}
	if second, err := os.ReadFile(filepath.Join(again, "performance.md")); err != nil || string(second) != string(page) {
		t.Errorf("the page made from the JSON differs (%v)", err)
	}
}

func TestWins(t *testing.T) {
	s := &result.Scenario{Name: "latency"}
	row := func(subject, condition string, f result.Figures) { s.Row(subject, condition).Add(f) }
	row("smshooks", "100", result.Figures{result.Sent: 100, result.CPU: 600, result.P50: 1, result.P99: 3, result.Rate: 100})
	row("hand-written", "100", result.Figures{result.Sent: 100, result.CPU: 580, result.P50: 0.5, result.P99: 4, result.Rate: 110})
	row("smshooks", "half", result.Figures{result.Sent: 40_000, result.P50: 5})
	row("hand-written", "half", result.Figures{result.Sent: 20_000, result.P50: 1})
	row("smshooks", "backlog", result.Figures{result.Rate: 50_000, result.RSS: 120})
	row("benthos", "backlog", result.Figures{result.Rate: 60_000, result.RSS: 40})
	row("limit", "backlog", result.Figures{result.Rate: 90_000})
	row("Kafka Connect", "elsewhere", result.Figures{result.P50: 0.1})
	want := []win{
		{"latency", "100", "hand-written", "p50 ms 0.50, not 1.00"},
		{"latency", "backlog", "benthos", "per second 60,000, not 50,000; peak RSS MB 40, not 120"},
	}
	if got := wins(&result.Report{Scenarios: []*result.Scenario{s}}); !slices.Equal(got, want) {
		t.Errorf("wins %+v, want %+v", got, want)
	}
}

func TestLeftOut(t *testing.T) {
	r := sample()
	r.LeftOut = []string{"Kafka Connect: no plugin"}
	for _, want := range []string{"- Kafka Connect: no plugin", "In no case"} {
		if page, err := render(r, nil); err != nil || !strings.Contains(page, want) {
			t.Errorf("no %q in the page (%v)", want, err)
		}
	}
}

func TestPlot(t *testing.T) {
	s := sample().Scenarios[0]
	svg, ok := Plot(s, result.CPU)
	if !ok {
		t.Fatal("no plot")
	}
	count := make(map[string]int)
	for dec := xml.NewDecoder(strings.NewReader(svg)); ; {
		token, err := dec.Token()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			t.Fatalf("no XML: %v\n%s", err, svg)
		}
		if e, ok := token.(xml.StartElement); ok {
			count[e.Name.Local]++
		}
	}
	// a background and two bars; four runs; one goal
	if count["rect"] != 3 || count["circle"] != 4 || count["line"] != 1 {
		t.Errorf("the plot has %v", count)
	}
	if _, ok := Plot(s, result.Start); ok {
		t.Error("a figure that no row has is plotted")
	}
}

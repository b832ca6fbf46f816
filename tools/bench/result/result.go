// Package result holds the results of a benchmark: the figures of every run, their medians, the goals and the ratios
// between subjects, in the form of the JSON file.
package result

import (
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"slices"
	"time"
)

// The names of figures in the JSON.
const (
	CPU        = "cpu_us"          // user+sys µs of the process per delivery, between the first and the last
	Rate       = "per_second"      // deliveries (parked events in the outage scenario) per second between the first and the last
	RSS        = "peak_rss_mb"     // VmHWM, in 10^6 bytes
	P50        = "p50_ms"          // event to delivery
	P99        = "p99_ms"          // event to delivery
	Idle       = "idle_cpu_pct"    // CPU of the process while nothing is due, in percent of one core
	Start      = "start_s"         // fork of the process to the first delivery
	Resumed    = "resumed_pct"     // TLS handshakes that resumed a session, in percent
	Handshakes = "handshakes"      // TLS handshakes seen by the receiver
	Reused     = "reused_pct"      // requests on a connection that had carried one before, in percent
	Dials      = "dials"           // connections that the receiver accepted, per request
	Questions  = "dns_questions"   // questions to the name server, per request
	Lost       = "lost"            // attempts that failed because the receiver was closing the connection
	Overflowed = "overflow"        // records that went to an overflow topic meanwhile
	Fetch      = "fetch_us"        // CPU-µs per record of fetching alone
	Decode     = "decode_us"       // µs per record of decoding alone
	Encode     = "encode_us"       // µs per record of writing the body alone
	WriteRead  = "write_read_us"   // CPU-µs per request of the bare client
	Sent       = "load_per_second" // the load that was offered
)

// Column describes how a figure is shown.
type Column struct {
	Name, Title string
	Decimals    int
}

// Columns returns the figures in the order in which tables show them.
func Columns() []Column {
	return []Column{
		{CPU, "CPU-µs/delivery", 1}, {Rate, "per second", 0}, {Sent, "load/s", 0}, {P50, "p50 ms", 2}, {P99, "p99 ms", 2},
		{RSS, "peak RSS MB", 0}, {Idle, "idle CPU %", 2}, {Start, "start s", 2}, {Handshakes, "handshakes", 0}, {Resumed, "resumed %", 0},
		{Reused, "reused %", 0}, {Dials, "dials/request", 2}, {Questions, "DNS questions/request", 2}, {Lost, "lost to close races", 0},
		{Fetch, "fetch µs", 2}, {Decode, "decode µs", 2}, {Encode, "encode µs", 2}, {WriteRead, "write+read µs", 2}, {Overflowed, "overflowed", 0},
	}
}

// Figures are the measurements of one run, or their medians.
type Figures map[string]float64

// Row is one subject under one condition.
type Row struct {
	Subject string    `json:"subject"` // who did the work: smshooks, a peer, bare client, limit
	Case    string    `json:"case"`    // under which condition: "1,000 users"
	Runs    []Figures `json:"runs"`    // in the order in which they were made
	Median  Figures   `json:"median"`  // of each figure by itself
}

// Goal is a target for a figure, and the measured value.
type Goal struct {
	Text   string  `json:"text"`
	Figure string  `json:"figure,omitempty"` // the name of the figure, if it is one of a row
	Found  float64 `json:"found"`
	Limit  float64 `json:"limit"`
	Most   bool    `json:"most"` // Limit is an upper limit; otherwise it is a lower one
	Met    bool    `json:"met"`
}

// Ratio compares two rows.
type Ratio struct {
	Text  string  `json:"text"`
	Value float64 `json:"value"`
}

// Scenario is one experiment.
type Scenario struct {
	Name   string  `json:"name"`
	Title  string  `json:"title"`
	How    string  `json:"how"`
	Rows   []*Row  `json:"rows"`
	Goals  []Goal  `json:"goals,omitempty"`
	Ratios []Ratio `json:"ratios,omitempty"`
}

// Machine describes the machine of a measurement.
type Machine struct {
	CPU     string `json:"cpu"`
	Cores   int    `json:"cores"`
	Memory  int64  `json:"memory_bytes"`
	OS      string `json:"os"`
	Go      string `json:"go"`
	Version string `json:"version"` // of smshooks
	Kafka   string `json:"kafka"`   // image, or the address that was given
	Redis   string `json:"redis"`
	Load    string `json:"load"` // of the last minute before the start; a busy machine gives bad figures
}

// Report is a whole benchmark run.
type Report struct {
	Machine   Machine     `json:"machine"`
	Date      time.Time   `json:"date"`
	Took      float64     `json:"took_seconds"`
	RunsEach  int         `json:"runs_each"`
	Quick     bool        `json:"quick,omitempty"`
	LeftOut   []string    `json:"left_out,omitempty"` // peers that were not measured, each with the reason
	Scenarios []*Scenario `json:"scenarios"`
}

// Row finds or makes the row of a subject and case.
func (s *Scenario) Row(subject, condition string) *Row {
	for _, r := range s.Rows {
		if r.Subject == subject && r.Case == condition {
			return r
		}
	}
	r := &Row{Subject: subject, Case: condition}
	s.Rows = append(s.Rows, r)
	return r
}

// Median returns the median of a figure, and whether it was measured.
func (s *Scenario) Median(subject, condition, figure string) (float64, bool) {
	for _, r := range s.Rows {
		if r.Subject == subject && r.Case == condition {
			v, ok := r.Median[figure]
			return v, ok
		}
	}
	return 0, false
}

// Add appends a run and computes the medians again.
func (r *Row) Add(f Figures) {
	r.Runs = append(r.Runs, f)
	values := make(map[string][]float64)
	for _, run := range r.Runs {
		for name, v := range run {
			values[name] = append(values[name], v)
		}
	}
	r.Median = make(Figures, len(values))
	for name, vs := range values {
		r.Median[name] = Median(vs)
	}
}

// Median returns the middle value, the mean of the two middle ones of an even count, 0 of none. It does not change vs.
func Median(vs []float64) float64 {
	if len(vs) == 0 {
		return 0
	}
	sorted := slices.Sorted(slices.Values(vs))
	half := len(sorted) / 2
	if len(sorted)%2 == 1 {
		return sorted[half]
	}
	return (sorted[half-1] + sorted[half]) / 2
}

// Want adds the goal that a median is at most (or at least) limit. A row that wasn't measured adds none.
func (s *Scenario) Want(text, subject, condition, figure string, most bool, limit float64) {
	if found, ok := s.Median(subject, condition, figure); ok {
		s.Judge(text, found, most, limit)
		s.Goals[len(s.Goals)-1].Figure = figure
	}
}

// Judge adds a goal for a figure that was computed in another way.
func (s *Scenario) Judge(text string, found float64, most bool, limit float64) {
	s.Goals = append(s.Goals, Goal{Text: text, Found: found, Limit: limit, Most: most, Met: most && found <= limit || !most && found >= limit})
}

// Compare adds the ratio of a figure of two rows. Rows that weren't measured add none.
func (s *Scenario) Compare(text, figure, subject, condition, toSubject, toCase string) {
	a, okA := s.Median(subject, condition, figure)
	b, okB := s.Median(toSubject, toCase, figure)
	if okA && okB && b != 0 {
		s.Ratios = append(s.Ratios, Ratio{text, a / b})
	}
}

// WantRatio adds a ratio like Compare, and the goal that it is at most limit.
func (s *Scenario) WantRatio(text, figure, subject, condition, toSubject, toCase string, limit float64) {
	known := len(s.Ratios)
	s.Compare(text, figure, subject, condition, toSubject, toCase)
	for _, r := range s.Ratios[known:] {
		s.Judge(fmt.Sprintf("%s: at most %g", text, limit), r.Value, true, limit)
	}
}

// Spread returns by how much the largest median of a figure among a subject's rows exceeds the smallest (0.15 = 15%),
// and false with fewer than two rows.
func (s *Scenario) Spread(subject, figure string) (float64, bool) {
	var vs []float64
	for _, r := range s.Rows {
		if v, ok := r.Median[figure]; ok && r.Subject == subject {
			vs = append(vs, v)
		}
	}
	if len(vs) < 2 || slices.Min(vs) <= 0 {
		return 0, false
	}
	return slices.Max(vs)/slices.Min(vs) - 1, true
}

// Shown returns the columns that at least one row of the scenario has.
func (s *Scenario) Shown() []Column {
	have := make(map[string]bool)
	for _, r := range s.Rows {
		for name := range maps.Keys(r.Median) {
			have[name] = true
		}
	}
	return slices.DeleteFunc(Columns(), func(c Column) bool { return !have[c.Name] })
}

// Verdict is "met" or "not met".
func (g Goal) Verdict() string {
	if g.Met {
		return "met"
	}
	return "not met"
}

// Write writes the report as indented JSON.
func (r *Report) Write(w io.Writer) error {
	enc := json.NewEncoder(w)
	enc.SetIndent("", " ")
	enc.SetEscapeHTML(false)
	if err := enc.Encode(r); err != nil {
		return fmt.Errorf("writing the figures: %w", err)
	}
	return nil
}

// Read reads what Write wrote.
func Read(from io.Reader) (*Report, error) {
	var r Report
	if err := json.NewDecoder(from).Decode(&r); err != nil {
		return nil, fmt.Errorf("reading the figures: %w", err)
	}
	return &r, nil
}

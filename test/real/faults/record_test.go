// Package faults_test breaks the program and everything around it. The customers' web server and Kafka's topics show
// what became of each event. Every case writes a line for docs/reliability.md.
//
// The cases have a short form, a few seconds of load, which runs with the rest of the real floor, and a long form with
// the full numbers: SMSHOOKS_FAULTS=long (make faults).
package faults_test

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/smshooks/smshooks/test/real/harness"
)

func TestMain(m *testing.M) { harness.Main(m, report) }

// Environment variables of the suite. Results are appended as JSON lines, so that cases may run one at a time. The
// report is rendered from all lines. The last line of a case counts.
const (
	formVariable    = "SMSHOOKS_FAULTS"         // "long": the full numbers
	resultsVariable = "SMSHOOKS_FAULTS_RESULTS" // file of JSON lines
	reportVariable  = "SMSHOOKS_FAULTS_REPORT"  // file of the table
)

// long reports whether the full numbers are requested.
func long() bool { return os.Getenv(formVariable) == "long" }

// pick returns the number for the short or the long form.
func pick[T any](short, full T) T {
	if long() {
		return full
	}
	return short
}

// result is the result of a case. A count that is not measured is -1 and shown as "–".
type result struct {
	Case     string        `json:"case"`  // "kill -9 of one of three"
	Point    string        `json:"point"` // group in the table: "1", "7a"; sorts the rows
	Form     string        `json:"form"`  // short, long
	Load     string        `json:"load"`  // "5,000 events/s, 60 s"
	Done     string        `json:"done"`  // what was done to the service
	When     time.Time     `json:"when"`
	Build    string        `json:"build"` // git describe
	Took     time.Duration `json:"took"`
	Produced int           `json:"produced"` // events in the source topics

	Delivered   int `json:"delivered"` // answered with success at least once
	Dead        int `json:"dead"`
	Waiting     int `json:"waiting"` // in retry and overflow topics at the end
	OnPurpose   int `json:"on_purpose"`
	Missing     int `json:"missing"`     // with none of these fates
	Duplicates  int `json:"duplicates"`  // requests repeated under the same number
	Unexplained int `json:"unexplained"` // duplicates that contract 4 does not allow
	Beyond      int `json:"beyond"`      // attempts beyond the third
	Early       int `json:"early"`       // attempts before they were due

	Why      string        `json:"why,omitempty"`      // why duplicates are allowed
	Recovery time.Duration `json:"recovery,omitempty"` // from the end of the fault until events are on time again
	Notes    []string      `json:"notes,omitempty"`
	Failed   bool          `json:"failed"`
}

// caseRecord collects one case's result and writes it when the test ends.
type caseRecord struct {
	t     testing.TB
	began time.Time

	mu sync.Mutex
	r  result
}

// newCase begins a case with its group in the table ("1", "7"), a name of a few words and a description of the load.
func newCase(t testing.TB, point, name, load string) *caseRecord {
	t.Helper()
	c := &caseRecord{t: t, began: time.Now(), r: result{
		Case: name, Point: point, Form: pick("short", "long"), Load: load, Produced: -1, Delivered: -1, Dead: -1, Waiting: -1,
		OnPurpose: -1, Missing: -1, Duplicates: -1, Unexplained: -1, Beyond: -1, Early: -1,
	}}
	t.Cleanup(c.write)
	return c
}

// set changes the result.
func (c *caseRecord) set(change func(r *result)) {
	c.mu.Lock()
	defer c.mu.Unlock()
	change(&c.r)
}

// did describes what was done to the service.
func (c *caseRecord) did(format string, args ...any) {
	c.set(func(r *result) { r.Done = fmt.Sprintf(format, args...) })
}

// note adds a figure or a remark to the row.
func (c *caseRecord) note(format string, args ...any) {
	c.set(func(r *result) { r.Notes = append(r.Notes, fmt.Sprintf(format, args...)) })
}

// build returns the version under test, "" outside a clone.
var build = sync.OnceValue(func() string {
	out, err := exec.Command("git", "describe", "--always", "--dirty").Output()
	if err != nil {
		return ""
	}
	return strings.TrimSpace(string(out))
})

func (c *caseRecord) write() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.t.Skipped() {
		return
	}
	c.r.Failed, c.r.When, c.r.Took = c.t.Failed(), c.began.UTC().Truncate(time.Second), time.Since(c.began)
	c.r.Build = build()
	line, err := json.Marshal(c.r)
	if err != nil {
		c.t.Errorf("result of %q: %v", c.r.Case, err)
		return
	}
	c.t.Logf("result: %s", line)
	path := os.Getenv(resultsVariable)
	if path == "" {
		return
	}
	f, err := os.OpenFile(path, os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o644)
	if err == nil {
		_, err = f.Write(append(line, '\n')) // one write: lines of parallel tests do not mix
		err = errors.Join(err, f.Close())
	}
	if err != nil {
		c.t.Errorf("write the result to %s (%s): %v", path, resultsVariable, err)
	}
}

// readResults reads JSON lines. The last line of a case counts. A missing file has no results.
func readResults(path string) ([]result, error) {
	f, err := os.Open(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	defer f.Close()
	at := map[string]int{}
	var all []result
	lines := bufio.NewScanner(f)
	lines.Buffer(nil, 1<<20)
	for lines.Scan() {
		var r result
		if err := json.Unmarshal(lines.Bytes(), &r); err != nil {
			return nil, fmt.Errorf("%s: line %q: %w", path, lines.Text(), err)
		}
		if i, ok := at[r.Case]; ok {
			all[i] = r
			continue
		}
		at[r.Case] = len(all)
		all = append(all, r)
	}
	return all, lines.Err()
}

// writeResults replaces the file with one JSON line per case.
func writeResults(path string, all []result) error {
	var b bytes.Buffer
	lines := json.NewEncoder(&b)
	lines.SetEscapeHTML(false)
	for _, r := range all {
		if err := lines.Encode(r); err != nil {
			return err
		}
	}
	return os.WriteFile(path, b.Bytes(), 0o644)
}

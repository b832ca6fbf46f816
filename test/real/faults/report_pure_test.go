package faults_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// TestReport checks that rows are in the order of their points, that the last line of a case counts, and that a failed
// case is marked.
func TestReport(t *testing.T) {
	dir := t.TempDir()
	results, to := filepath.Join(dir, "results.jsonl"), filepath.Join(dir, "report.md")
	t.Setenv(resultsVariable, results)
	t.Setenv(reportVariable, to)
	if err := report(); err == nil {
		t.Error("a report without results")
	}
	lines := `{"case":"late one","point":"10","form":"long","produced":1234567,"missing":0}
{"case":"first","point":"2b","produced":1,"missing":1,"failed":true}
{"case":"second","point":"2c","produced":-1,"missing":1,"failed":true}
{"case":"first","point":"2b","produced":77,"missing":0,"notes":["p99 3 ms"]}
`
	if err := os.WriteFile(results, []byte(lines), 0o644); err != nil {
		t.Fatal(err)
	}
	if err := report(); err != nil {
		t.Fatal(err)
	}
	b, err := os.ReadFile(to)
	if err != nil {
		t.Fatal(err)
	}
	text := string(b)
	at := -1
	for _, want := range []string{"| 2b | first |  | 77 |", "passed", "| 2c | second |  | – |", "**failed**", "| 10 | late one |  | 1,234,567 |", "p99 3 ms"} {
		i := strings.Index(text, want)
		if i <= at {
			t.Errorf("%q is at %d, want it after %d:\n%s", want, i, at, text)
		}
		at = i
	}
	if strings.Count(text, "| first |") != 1 {
		t.Error("a case is listed twice")
	}
}

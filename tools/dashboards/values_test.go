package main

import (
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
)

// changed returns deploy/grafana/values.yaml with another line.
func changed(t *testing.T, line, other string) (v values, err error) {
	t.Helper()
	text, err := os.ReadFile(deployDir + "/grafana/values.yaml")
	if err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(string(text), "\n"+line+"\n") {
		t.Fatalf("no line %s", line)
	}
	file := filepath.Join(t.TempDir(), "values.yaml")
	if err := os.WriteFile(file, []byte(strings.Replace(string(text), line, other, 1)), 0o600); err != nil {
		t.Fatal(err)
	}
	return readValues(file)
}

// TestObjectivesThatNeverFire checks that objectives are refused with which no alert can fire: within is no end of a
// bucket, or more than all attempts would have to be late.
func TestObjectivesThatNeverFire(t *testing.T) {
	for _, tc := range [][3]string{
		{"within: 10", "within: 7", "use one of [1 5 10 30 60 300 1800 21600]"},
		{"objective: 0.999", "objective: 0.9", "above 0.9306 and below 1"},
		{"objective: 0.999", "objective: 1", "above 0.9306 and below 1"},
	} {
		if _, err := changed(t, tc[0], tc[1]); err == nil || !strings.Contains(err.Error(), tc[2]) {
			t.Errorf("%s: %v", tc[1], err)
		}
	}
	if _, err := changed(t, "within: 10", "within: 30"); err != nil {
		t.Error(err)
	}
}

// TestBuckets compares the buckets with the program's.
func TestBuckets(t *testing.T) {
	text, err := os.ReadFile("../../internal/metrics/metrics.go")
	if err != nil {
		t.Fatal(err)
	}
	m := regexp.MustCompile(`(?s)"smshooks_first_attempt_seconds",.*?\[\]float64\{(.*?)\}`).FindSubmatch(text)
	if m == nil {
		t.Fatal("no buckets of smshooks_first_attempt_seconds in the program")
	}
	var whole []int
	for bucket := range strings.SplitSeq(string(m[1]), ", ") {
		if n, err := strconv.Atoi(bucket); err == nil {
			whole = append(whole, n)
		}
	}
	if !slices.Equal(whole, buckets) {
		t.Errorf("the program has buckets %v, values.go %v", whole, buckets)
	}
}

// TestRevocationInterval checks that the alerts on unsettled records wait for collected revocations.
func TestRevocationInterval(t *testing.T) {
	v, err := changed(t, "revocation_interval: 60", "revocation_interval: 600")
	if err != nil {
		t.Fatal(err)
	}
	files, err := generate(v, deployDir)
	if err != nil {
		t.Fatal(err)
	}
	rules := string(files[filepath.Join(deployDir, "prometheus", "rules", "smshooks.yml")])
	for _, want := range []string{"(smshooks_source_lag_seconds) > 840\n", "(smshooks_commit_stalled_seconds) > 840\n"} {
		if !strings.Contains(rules, want) {
			t.Errorf("no rule %q", want)
		}
	}
}

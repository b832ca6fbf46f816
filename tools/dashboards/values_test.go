package main

import (
	"os"
	"path/filepath"
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

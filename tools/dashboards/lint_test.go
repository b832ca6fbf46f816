package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// good is a dashboard without findings.
const good = `{
	"title": "board", "editable": false,
	"templating": {"list": [
		{"name": "datasource", "label": "Data source", "type": "datasource"},
		{"name": "job", "label": "Job", "type": "query", "multi": true, "allValue": ".+", "refresh": 2, "datasource": {"uid": "${datasource}"}},
		{"name": "instance", "label": "Instance", "type": "query", "multi": true, "allValue": ".+", "refresh": 2, "datasource": {"uid": "${datasource}"}}
	]},
	"panels": [{
		"type": "timeseries", "title": "panel", "description": "about", "datasource": {"uid": "${datasource}" },
		"fieldConfig": {"defaults": {"unit": "s"}},
		"targets": [{"expr": "sum(rate(smshooks_a_total{job=~\"$job\", instance=~\"$instance\"}[$__rate_interval]))"}]
	}]
}`

// TestLint checks that each rule notices its fault, and no other rule does.
func TestLint(t *testing.T) {
	none := exclusions(t, "")
	if err := lint([]byte(good), none); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct{ rule, old, bad string }{
		{"template-on-time-change-reload-rule", `"refresh": 2`, `"refresh": 1`},
		{"template-job-rule", `"label": "Job"`, `"label": "job"`},
		{"template-job-rule", `"name": "job"`, `"name": "jobs"`},
		{"template-job-rule", `"multi": true`, `"multi": false`},
		{"template-job-rule", `".+"`, `".*"`},
		{"template-job-rule", `"uid": "${datasource}"}}`, `"uid": "prometheus"}}`},
		{"template-instance-rule", `"label": "Instance"`, `"label": "instance"`},
		{"template-datasource-rule", `"Data source"`, `"Source"`},
		{"uneditable-dashboard", `"editable": false`, `"editable": true`},
		{"panel-datasource-rule", `"${datasource}" }`, `"prometheus" }`},
		{"panel-title-description-rule", `"about"`, `""`},
		{"panel-title-description-rule", `"panel"`, `""`},
		{"panel-units-rule", `"unit": "s"`, `"unit": ""`},
		{"panel-no-targets-rule", `"targets"`, `"queries"`},
		{"target-job-rule", `job=~\"$job\", `, ``},
		{"target-instance-rule", `instance=~\"$instance\"`, `instance=\"a\"`},
		{"target-rate-interval-rule", `$__rate_interval`, `5m`},
		{"target-counter-agg-rule", `rate(`, `last_over_time(`},
		{"target-counter-agg-rule", `[$__rate_interval]`, ``},
	} {
		text := strings.Replace(good, c.old, c.bad, 1)
		if text == good {
			t.Fatalf("%q is not in the dashboard", c.old)
		}
		if err := lint([]byte(text), none); err == nil || !strings.HasPrefix(err.Error(), c.rule+": ") || strings.Contains(err.Error(), "\n") {
			t.Errorf("%s with %s: %v", c.rule, c.bad, err)
		}
	}
}

// TestExclusions checks that an exclusion holds for one rule and one panel, and needs a reason.
func TestExclusions(t *testing.T) {
	bad := []byte(strings.Replace(good, "$__rate_interval", "5m", 1))
	const entry = `{dashboard: board, panel: panel, reason: it needs five minutes}`
	for list, excluded := range map[string]bool{
		`target-rate-interval-rule: {entries: [` + entry + `]}`:                                           true,
		`target-rate-interval-rule: {entries: [{dashboard: board, panel: panel}]}`:                        false,
		`target-rate-interval-rule: {entries: [{dashboard: board, panel: other, reason: it is another}]}`: false,
		`target-rate-interval-rule: {entries: [{dashboard: other, panel: panel, reason: it is another}]}`: false,
		`target-counter-agg-rule: {entries: [` + entry + `]}`:                                             false,
	} {
		if err := lint(bad, exclusions(t, list)); (err == nil) != excluded {
			t.Errorf("%s: %v", list, err)
		}
	}
}

// exclusions writes a file of exclusions.
func exclusions(t *testing.T, list string) string {
	t.Helper()
	file := filepath.Join(t.TempDir(), ".lint")
	if err := os.WriteFile(file, []byte("exclusions: {"+list+"}\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	return file
}

// Package deploy compares deploy/ with the program and the docs: alerts with the runbook, rules with their tests, and
// settings with the programs that read them.
package deploy

import (
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/spf13/pflag"
	"go.yaml.in/yaml/v3"

	"github.com/smshooks/smshooks/config"
)

const (
	rulesFile = "../../deploy/prometheus/rules/smshooks.yml"
	testsFile = "../../deploy/prometheus/rules/smshooks_test.yml"
	runbook   = "../../docs/runbook.md"
	runbookAt = "https://github.com/smshooks/smshooks/blob/main/docs/runbook.md#"
)

func text(t *testing.T, file string) string {
	t.Helper()
	data, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	return string(data)
}

func read(t *testing.T, file string, into any) {
	t.Helper()
	if err := yaml.Unmarshal([]byte(text(t, file)), into); err != nil {
		t.Fatalf("%s: %v", file, err)
	}
}

type alert struct {
	Alert       string
	Expr        string
	Labels      map[string]string
	Annotations map[string]string
}

func alerts(t *testing.T) []alert {
	t.Helper()
	var file struct{ Groups []struct{ Rules []alert } }
	read(t, rulesFile, &file)
	var all []alert
	for _, g := range file.Groups {
		for _, r := range g.Rules {
			if r.Alert != "" {
				all = append(all, r)
			}
		}
	}
	if len(all) < 7 {
		t.Fatalf("%d alerts", len(all))
	}
	return all
}

// TestRunbook checks that each alert links to its section of the runbook and to a panel, and that each section has an
// alert.
func TestRunbook(t *testing.T) {
	var sections []string
	for _, m := range regexp.MustCompile(`(?m)^## (Smshooks\w+)$`).FindAllStringSubmatch(text(t, runbook), -1) {
		sections = append(sections, m[1])
	}
	panels := panelURLs(t)
	for _, a := range alerts(t) {
		if !slices.Contains(sections, a.Alert) {
			t.Errorf("%s has no section in the runbook", a.Alert)
		}
		sections = slices.DeleteFunc(sections, func(s string) bool { return s == a.Alert })
		if want := runbookAt + strings.ToLower(a.Alert); a.Annotations["runbook_url"] != want {
			t.Errorf("%s: runbook_url is %q, want %q", a.Alert, a.Annotations["runbook_url"], want)
		}
		url, installation, _ := strings.Cut(a.Annotations["dashboard_url"], "{{")
		if !panels[url] || !strings.Contains(installation, "&var-cluster=") || !strings.Contains(installation, "&var-namespace=") {
			t.Errorf("%s: dashboard_url %q is not a panel of the alert's installation", a.Alert, a.Annotations["dashboard_url"])
		}
		if !slices.Contains([]string{"page", "warning", "info"}, a.Labels["severity"]) {
			t.Errorf("%s: severity %q", a.Alert, a.Labels["severity"])
		}
		if a.Annotations["summary"] == "" || a.Annotations["description"] == "" {
			t.Errorf("%s has no summary or no description", a.Alert)
		}
	}
	for _, s := range sections {
		t.Errorf("the runbook's section %s has no alert", s)
	}
}

// panelURLs are the addresses of all panels in the Grafana of docker-compose.yml.
func panelURLs(t *testing.T) map[string]bool {
	t.Helper()
	files, err := filepath.Glob("../../deploy/grafana/dashboards/*.json")
	if err != nil || len(files) == 0 {
		t.Fatalf("dashboards: %v, %v", files, err)
	}
	urls := map[string]bool{}
	for _, file := range files {
		var board struct {
			UID    string
			Panels []struct {
				ID   int
				Type string
			}
		}
		read(t, file, &board)
		for _, p := range board.Panels {
			urls[fmt.Sprintf("http://localhost:3000/d/%s?viewPanel=%d", board.UID, p.ID)] = p.Type != "row"
		}
	}
	return urls
}

// TestUnitHasNoSettings checks that the systemd unit sets nothing by a flag: a flag would win over the settings file.
func TestUnitHasNoSettings(t *testing.T) {
	want := "\nExecStart=/usr/local/bin/smshooks serve --config=/etc/smshooks/smshooks.yaml\n"
	if !strings.Contains(text(t, "../../deploy/systemd/smshooks.service"), want) {
		t.Errorf("the unit has no line %q", want)
	}
}

// TestAlertsSeeTheFirstScrape checks that an alert on any increase of a counter also counts what an instance counted
// before its first scrape.
func TestAlertsSeeTheFirstScrape(t *testing.T) {
	for _, a := range alerts(t) {
		if strings.Contains(a.Expr, "increase(") && strings.HasSuffix(strings.TrimSpace(a.Expr), "> 0") &&
			!strings.Contains(a.Expr, "process_start_time_seconds") {
			t.Errorf("%s misses counts before the first scrape; use counted in rules.yml.tmpl: %s", a.Alert, a.Expr)
		}
	}
}

// TestEveryAlertIsTested checks that each alert has a test in which it fires and one in which it does not. promtool
// runs them: make rules-check.
func TestEveryAlertIsTested(t *testing.T) {
	var file struct {
		Tests []struct {
			Name   string
			Alerts []struct {
				Alertname string
				Expected  []any `yaml:"exp_alerts"`
			} `yaml:"alert_rule_test"`
		}
	}
	read(t, testsFile, &file)
	fires, quiet := map[string]bool{}, map[string]bool{}
	for _, test := range file.Tests {
		for _, a := range test.Alerts {
			switch test.Name {
			case a.Alertname + " fires":
				fires[a.Alertname] = len(a.Expected) > 0
			case a.Alertname + " is quiet":
				quiet[a.Alertname] = len(a.Expected) == 0
			}
		}
	}
	for _, a := range alerts(t) {
		if !fires[a.Alert] || !quiet[a.Alert] {
			t.Errorf("%s: tested firing %v, quiet %v", a.Alert, fires[a.Alert], quiet[a.Alert])
		}
	}
}

// TestSettings checks that the program accepts the settings in the manifests, and that orchestrators wait longer than
// it takes to stop.
func TestSettings(t *testing.T) {
	cfg, err := config.Load("../../deploy/kubernetes/smshooks.yaml", nil, pflag.NewFlagSet("", pflag.ContinueOnError))
	if err != nil {
		t.Fatal(err)
	}
	if cfg.API.Addr != "0.0.0.0:8080" || cfg.Ops.Addr != "0.0.0.0:9464" {
		t.Errorf("listens on %s and %s, the manifests expect 8080 and 9464", cfg.API.Addr, cfg.Ops.Addr)
	}
	const lastCommit = 5 * time.Second
	for file, pattern := range map[string]string{
		"../../deploy/kubernetes/deployment.yaml": `terminationGracePeriodSeconds: (\d+)\b`,
		"../../deploy/systemd/smshooks.service":   `TimeoutStopSec=(\d+)s`,
		"../../docker-compose.yml":                `stop_grace_period: (\d+)s`,
	} {
		m := regexp.MustCompile(pattern).FindStringSubmatch(text(t, file))
		if m == nil {
			t.Fatalf("%s: no %s", file, pattern)
		}
		if wait, err := time.ParseDuration(m[1] + "s"); err != nil || wait < cfg.Shutdown.Grace+lastCommit {
			t.Errorf("%s kills after %v, the program takes up to %v", file, wait, cfg.Shutdown.Grace+lastCommit)
		}
	}
	for name := range strings.Lines(text(t, "../../deploy/kubernetes/secret.yaml")) {
		if name, value, ok := strings.Cut(strings.TrimSpace(name), ": "); ok && strings.HasPrefix(name, "SMSHOOKS_") {
			if _, err := config.Load("", []string{name + "=" + strings.Trim(value, `"`)}, pflag.NewFlagSet("", pflag.ContinueOnError)); err != nil {
				t.Errorf("secret.yaml: %v", err)
			}
		}
	}
}

// TestHomeDashboard checks that the compose file opens an existing dashboard.
func TestHomeDashboard(t *testing.T) {
	m := regexp.MustCompile(`HOME_DASHBOARD_PATH: /var/lib/grafana/dashboards/(\S+)`).FindStringSubmatch(text(t, "../../docker-compose.yml"))
	if m == nil {
		t.Fatal("docker-compose.yml names no home dashboard")
	}
	if _, err := os.Stat("../../deploy/grafana/dashboards/" + m[1]); err != nil {
		t.Error(err)
	}
}

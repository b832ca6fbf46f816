package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"regexp"
	"slices"
	"strings"

	"go.yaml.in/yaml/v3"
)

// board and panel hold what the rules of Grafana's dashboard-linter check.
type board struct {
	Title      string
	Editable   bool
	Panels     []panel
	Templating struct {
		List []struct {
			Name, Label, Type, AllValue string
			Multi                       bool
			Refresh                     int
			Datasource                  struct{ UID string }
		}
	}
}

type panel struct {
	Type, Title, Description string
	Datasource               struct{ UID string }
	FieldConfig              struct{ Defaults struct{ Unit string } }
	Targets                  []struct{ Expr string }
}

// finding is a violation of a rule. panel is "" if it concerns the dashboard.
type finding struct{ rule, panel, text string }

// lint checks a dashboard against the rules of github.com/grafana/dashboard-linter, under its names. That program itself
// is not run. The file of exclusions is in its format, so it can be run as well; a reason is required.
func lint(text []byte, exclusions string) error {
	var b board
	if err := json.Unmarshal(text, &b); err != nil {
		return err
	}
	list, err := os.ReadFile(exclusions)
	if err != nil {
		return fmt.Errorf("read exclusions: %w", err)
	}
	var config struct {
		Exclusions map[string]struct {
			Reason  string
			Entries []struct{ Dashboard, Panel, Reason string }
		}
	}
	if err := yaml.Unmarshal(list, &config); err != nil {
		return fmt.Errorf("%s: %w", exclusions, err)
	}
	var errs []error
	for _, f := range append(b.variables(), b.panels()...) {
		excluded := false
		for _, e := range config.Exclusions[f.rule].Entries {
			excluded = excluded || e.Reason != "" && e.Dashboard == b.Title && e.Panel == f.panel
		}
		if !excluded {
			errs = append(errs, fmt.Errorf("%s: %s %s", f.rule, f.panel, f.text))
		}
	}
	return errors.Join(errs...)
}

func (b board) variables() (found []finding) {
	names := map[string]string{"job": "Job", "instance": "Instance"}
	source := false
	for _, v := range b.Templating.List {
		source = source || v.Type == "datasource" && v.Name == "datasource" && v.Label == "Data source"
		if v.Type != "query" {
			continue
		}
		if v.Refresh != 2 {
			found = append(found, finding{"template-on-time-change-reload-rule", "", v.Name + " is not read again when the time changes"})
		}
		if label, ok := names[v.Name]; ok {
			delete(names, v.Name)
			if v.Label != label || !v.Multi || v.AllValue != ".+" || v.Datasource.UID != "${datasource}" {
				found = append(found, finding{"template-" + v.Name + "-rule", "", "needs its label, the data source, several values and .+ for all"})
			}
		}
	}
	for name := range names {
		found = append(found, finding{"template-" + name + "-rule", "", "is missing"})
	}
	if !source {
		found = append(found, finding{"template-datasource-rule", "", "no variable for the data source"})
	}
	if b.Editable {
		found = append(found, finding{"uneditable-dashboard", "", "is editable"})
	}
	return found
}

func (b board) panels() (found []finding) {
	for _, p := range b.Panels {
		if p.Type == "row" {
			continue
		}
		say := func(rule, text string) { found = append(found, finding{rule, p.Title, text}) }
		if p.Datasource.UID != "${datasource}" {
			say("panel-datasource-rule", "does not use the variable")
		}
		if slices.Contains([]string{"stat", "timeseries", "heatmap", "table"}, p.Type) && (p.Title == "" || p.Description == "") {
			say("panel-title-description-rule", "has no title or no description")
		}
		if slices.Contains([]string{"stat", "timeseries"}, p.Type) && p.FieldConfig.Defaults.Unit == "" {
			say("panel-units-rule", "has no unit")
		}
		if len(p.Targets) == 0 {
			say("panel-no-targets-rule", "has no query")
		}
		for _, t := range p.Targets {
			for rule, text := range faults(t.Expr) {
				say(rule, text+": "+t.Expr)
			}
		}
	}
	return found
}

var (
	selector = regexp.MustCompile(`\b(smshooks|process|kafka|go_|up)\w*(\{[^}]*\})?`)
	rates    = regexp.MustCompile(`\bi?rate\([^\[]*\[([^\]]+)\]`)
	counters = regexp.MustCompile(`(\w*\()?\b\w+_total\{[^}]*\}(\[)?`)
)

// faults returns what is wrong with a query, by rule.
func faults(expr string) map[string]string {
	found := map[string]string{}
	for _, s := range selector.FindAllString(expr, -1) {
		for _, label := range []string{"job", "instance"} {
			if !strings.Contains(s, label+`=~"$`+label+`"`) {
				found["target-"+label+"-rule"] = "a selector without the variable"
			}
		}
	}
	for _, r := range rates.FindAllStringSubmatch(expr, -1) {
		if r[1] != "$__rate_interval" {
			found["target-rate-interval-rule"] = "a rate over a fixed time"
		}
	}
	for _, c := range counters.FindAllStringSubmatch(expr, -1) {
		if !slices.Contains([]string{"rate(", "irate(", "increase("}, c[1]) || c[2] == "" {
			found["target-counter-agg-rule"] = "a counter without rate or increase"
		}
	}
	return found
}

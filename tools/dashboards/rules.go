package main

import (
	"bytes"
	_ "embed"
	"fmt"
	"text/template"

	"github.com/grafana/grafana-foundation-sdk/go/dashboard"
)

//go:embed rules.yml.tmpl
var rulesText string

// rules returns the recording and alert rules. Each alert links to the panel that shows it, for the alert's installation.
func rules(v values, boards map[string]*dashboard.Dashboard) ([]byte, error) {
	// Prometheus' own templates have {{ }}.
	installation := fmt.Sprintf("{{ with $labels.%s }}&var-cluster={{ . | urlquery }}{{ end }}{{ with $labels.%s }}&var-namespace={{ . | urlquery }}{{ end }}",
		v.Cluster, v.Namespace)
	t, err := template.New("rules").Delims("[[", "]]").Funcs(template.FuncMap{
		"counted": v.counted,
		"windows": func() []string { return []string{"5m", "30m", "1h", "6h"} },
		"panel": func(board, title string) (string, error) {
			b := boards[board+".json"]
			if b == nil {
				return "", fmt.Errorf("no dashboard %s", board)
			}
			for _, p := range b.Panels {
				if p.Panel != nil && *p.Panel.Title == title {
					return fmt.Sprintf("%s/d/%s?viewPanel=%d%s", v.Grafana, *b.Uid, *p.Panel.Id, installation), nil
				}
			}
			return "", fmt.Errorf("no panel %q in %s", title, board)
		},
	}).Parse(rulesText)
	if err != nil {
		return nil, fmt.Errorf("rules: %w", err)
	}
	var text bytes.Buffer
	if err := t.Execute(&text, v); err != nil {
		return nil, fmt.Errorf("rules: %w", err)
	}
	return text.Bytes(), nil
}

// counted returns an expression for what series counted within the last minutes. The function increase starts at the
// first sample and so misses what a process counts before its first scrape. If a process has started within that time,
// its total is used.
func (v values) counted(series string, minutes int) string {
	return fmt.Sprintf("(%s > 0 and on (%s, instance) time() - process_start_time_seconds < %d) or increase(%s[%dm])",
		series, v.Group(), minutes*60, series, minutes)
}

// Package report turns a benchmark's figures into a page of tables and a plot for each important figure.
package report

import (
	_ "embed"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"text/template"

	"github.com/smshooks/smshooks/tools/bench/result"
)

//go:embed performance.md.tmpl
var page string

// plots holds the figures that get a plot, by scenario.
var plots = map[string][]string{
	"throughput": {result.CPU, result.Rate},
	"users":      {result.CPU, result.RSS},
	"partitions": {result.CPU},
	"parked":     {result.CPU, result.Idle},
	"latency":    {result.P99, result.CPU},
	"outage":     {result.Rate},
	"start":      {result.Start},
	"tls":        {result.CPU, result.Rate},
	"fleet":      {result.CPU, result.P99},
}

// Write writes performance.md, performance.json and images/perf-*.svg into dir, which must exist.
func Write(dir string, r *result.Report) error {
	files := make(map[string]string)
	images := make(map[string][]string)
	for _, s := range r.Scenarios {
		for _, figure := range plots[s.Name] {
			svg, ok := Plot(s, figure)
			if !ok {
				continue
			}
			name := "images/perf-" + s.Name + "-" + strings.ReplaceAll(figure, "_", "-") + ".svg"
			files[name] = svg
			images[s.Name] = append(images[s.Name], name)
		}
	}
	text, err := render(r, images)
	if err != nil {
		return err
	}
	files["performance.md"] = text
	var figures strings.Builder
	if err := r.Write(&figures); err != nil {
		return err
	}
	files["performance.json"] = figures.String()
	if err := os.MkdirAll(filepath.Join(dir, "images"), 0o755); err != nil {
		return fmt.Errorf("report: %w", err)
	}
	for name, content := range files {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(content), 0o644); err != nil {
			return fmt.Errorf("report: %w", err)
		}
	}
	return nil
}

func render(r *result.Report, images map[string][]string) (string, error) {
	functions := template.FuncMap{
		"table":  markdown,
		"wins":   wins,
		"images": func(scenario string) []string { return images[scenario] },
		"number": result.Number,
		"gib":    func(bytes int64) string { return result.Number(float64(bytes)/(1<<30), 1) },
		"min":    func(seconds float64) string { return result.Number(seconds/60, 0) },
	}
	t, err := template.New("performance.md").Funcs(functions).Parse(page)
	if err != nil {
		return "", fmt.Errorf("report: %w", err)
	}
	var b strings.Builder
	if err := t.Execute(&b, r); err != nil {
		return "", fmt.Errorf("report: %w", err)
	}
	return b.String(), nil
}

// markdown writes the scenario's table.
func markdown(s *result.Scenario) string {
	var b strings.Builder
	for i, line := range s.Table() {
		b.WriteString("| " + strings.Join(line, " | ") + " |\n")
		if i == 0 {
			b.WriteString("|---|---|" + strings.Repeat("---:|", len(line)-2) + "\n")
		}
	}
	return b.String()
}

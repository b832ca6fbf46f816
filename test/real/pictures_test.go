package real_test

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/chromedp/chromedp"
)

// drawn is a row of a dashboard for testdata/panels.html.
type drawn struct {
	Title  string       `json:"title"`
	From   int64        `json:"from"` // Unix seconds
	To     int64        `json:"to"`
	Panels []drawnPanel `json:"panels"`
	Marks  []drawnMark  `json:"marks"`
}

// drawnPanel is a panel, with its place in columns and rows of Grafana's grid.
type drawnPanel struct {
	Title       string       `json:"title"`
	Description string       `json:"description"`
	Type        string       `json:"type"`
	Unit        string       `json:"unit"`
	Limit       float64      `json:"limit"` // red from this value on; 0 if there is no limit
	X           int          `json:"x"`
	Y           int          `json:"y"`
	W           int          `json:"w"`
	H           int          `json:"h"`
	Series      []drawnCurve `json:"series"`
}

type drawnCurve struct {
	Name   string       `json:"name"`
	Values [][2]float64 `json:"values"` // Unix seconds, value
}

type drawnMark struct {
	Time  int64  `json:"time"`
	Color string `json:"color"`
}

// drawPanels draws every row of the dashboards from Prometheus' answers into the folder SMSHOOKS_TEST_PICTURES, with
// the copy of echarts that SMSHOOKS_TEST_ECHARTS names: make dashboards-images.
func (p *prometheus) drawPanels(t *testing.T, began time.Time) {
	folder := os.Getenv("SMSHOOKS_TEST_PICTURES")
	charts, err := os.ReadFile(os.Getenv("SMSHOOKS_TEST_ECHARTS"))
	if err != nil {
		t.Fatal(err)
	}
	page, err := os.ReadFile("testdata/panels.html")
	if err != nil {
		t.Fatal(err)
	}
	b, dir, now := newTab(t), t.TempDir(), time.Now()
	b.size(1424, 100)
	write := func(name string, data []byte) {
		if err := os.WriteFile(filepath.Join(dir, name), data, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write("echarts.js", charts)
	write("panels.html", page)
	for _, d := range dashboards(t) {
		for _, row := range p.rows(t, d, began, now) {
			data, err := json.Marshal(row)
			if err != nil {
				t.Fatal(err)
			}
			write("data.js", fmt.Appendf(nil, "const board = %s;", data))
			b.open("file://" + filepath.Join(dir, "panels.html"))
			b.see("document.title", "drawn")
			picture, err := chromedp.Run(b.ctx, chromedp.FullScreenshot(100))
			if err != nil {
				t.Fatal(err)
			}
			name := "dashboard-" + strings.Trim(regexp.MustCompile(`[^a-z]+`).ReplaceAllString(strings.ToLower(strings.TrimPrefix(row.Title, "smshooks")), "-"), "-") + ".png"
			if err := os.WriteFile(filepath.Join(folder, name), picture, 0o644); err != nil {
				t.Fatal(err)
			}
			t.Log(name)
		}
	}
	b.clean()
}

// rows queries all panels of a dashboard and returns its rows.
func (p *prometheus) rows(t *testing.T, d dashboard, from, to time.Time) (rows []drawn) {
	var marks []drawnMark
	for _, a := range d.Annotations.List {
		for _, s := range p.ask(t, variables.Replace(a.Expr), false, from, to) {
			for _, v := range curve(s).Values[:1] {
				marks = append(marks, drawnMark{int64(v[0]), a.IconColor})
			}
		}
	}
	top := 0
	for _, panel := range d.Panels {
		if panel.Type == "row" {
			top = panel.GridPos.Y + 1
			rows = append(rows, drawn{Title: d.Title + ": " + panel.Title, From: from.Unix(), To: to.Unix(), Marks: marks, Panels: []drawnPanel{}})
			continue
		}
		at := panel.GridPos
		made := drawnPanel{Title: panel.Title, Description: panel.Description, Type: panel.Type, X: at.X, Y: at.Y - top, W: at.W, H: at.H, Series: []drawnCurve{}}
		made.Unit = panel.FieldConfig.Defaults.Unit
		for _, step := range panel.FieldConfig.Defaults.Thresholds.Steps {
			made.Limit = max(made.Limit, step.Value)
		}
		for _, target := range panel.Targets {
			for _, s := range p.ask(t, variables.Replace(target.Expr), target.Instant, from, to) {
				c := curve(s)
				c.Name = prefix.ReplaceAllString(legend(target.LegendFormat, s.Metric), "")
				made.Series = append(made.Series, c)
			}
		}
		rows[len(rows)-1].Panels = append(rows[len(rows)-1].Panels, made)
	}
	return rows
}

// curve returns the samples of a series that are numbers.
func curve(s series) (c drawnCurve) {
	all := s.Values
	if len(s.Value) == 2 {
		all = [][]any{s.Value}
	}
	c.Values = [][2]float64{}
	for _, sample := range all {
		at, _ := sample[0].(float64)
		if v, err := strconv.ParseFloat(fmt.Sprint(sample[1]), 64); err == nil && v-v == 0 {
			c.Values = append(c.Values, [2]float64{at, v})
		}
	}
	return c
}

// prefix is the prefix of the test's own topics.
var prefix = regexp.MustCompile(`Dashboards-\w+?-`)

var placeholder = regexp.MustCompile(`\{\{(\w+)\}\}`)

// legend returns the name of a series; a table has all labels.
func legend(format string, labels map[string]string) string {
	if format != "" {
		return placeholder.ReplaceAllStringFunc(format, func(s string) string { return labels[strings.Trim(s, "{}")] })
	}
	var all []string
	for k, v := range labels {
		all = append(all, k+"="+v)
	}
	slices.Sort(all)
	return strings.Join(all, " ")
}

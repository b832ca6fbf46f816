package report

import (
	"fmt"
	"html"
	"strings"

	"github.com/smshooks/smshooks/tools/bench/result"
)

// The measures of a plot, in pixels.
const (
	width    = 720
	left     = 250 // for the names of the rows
	right    = 90  // for the figure after the longest bar
	top      = 46
	barPitch = 30
	bar      = 18
	bottom   = 34 // for the names of the goals
)

// colours by subject; they differ in lightness too.
func colour(subject string) string {
	switch subject {
	case "smshooks":
		return "#1f6feb"
	case "hand-written":
		return "#d4a72c"
	case "benthos", "benthos (64 idle)":
		return "#2da44e"
	case "Kafka Connect":
		return "#8250df"
	}
	return "#8c959f"
}

// Plot draws the medians of one figure as bars, every run as a dot, and the goals for the figure as dashed lines. It
// returns false if no row has the figure.
func Plot(s *result.Scenario, figure string) (svg string, ok bool) {
	column, rows := columnOf(figure), rowsWith(s, figure)
	if len(rows) == 0 {
		return "", false
	}
	longest := 0.0
	for _, r := range rows {
		for _, run := range r.Runs {
			longest = max(longest, run[figure])
		}
	}
	goals := limits(s, figure)
	for _, g := range goals {
		longest = max(longest, g.Limit)
	}
	if longest == 0 {
		longest = 1
	}
	x := func(v float64) float64 { return left + v/longest*(width-left-right) }
	height := top + len(rows)*barPitch + bottom
	var b strings.Builder
	fmt.Fprintf(&b, `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 %d %d" font-family="system-ui, sans-serif" font-size="13" role="img">`+"\n", width, height)
	fmt.Fprintf(&b, "<title>%s: %s</title>\n", html.EscapeString(s.Title), html.EscapeString(column.Title))
	fmt.Fprintf(&b, `<rect width="%d" height="%d" fill="#ffffff"/>`+"\n", width, height)
	fmt.Fprintf(&b, `<text x="12" y="24" font-size="15" font-weight="600" fill="#1f2328">%s: %s</text>`+"\n", html.EscapeString(s.Title), html.EscapeString(column.Title))
	for i, r := range rows {
		drawRow(&b, r, column, top+i*barPitch, x)
	}
	for i, g := range goals {
		sign := "≥"
		if g.Most {
			sign = "≤"
		}
		fmt.Fprintf(&b, `<line x1="%.1f" y1="%d" x2="%.1f" y2="%d" stroke="#cf222e" stroke-dasharray="4 3"/>`+"\n", x(g.Limit), top-8, x(g.Limit), height-bottom+4)
		// goals may lie close to each other: every second name stands one line lower
		fmt.Fprintf(&b, `<text x="%.1f" y="%d" text-anchor="middle" font-size="11" fill="#cf222e">goal %s %s</text>`+"\n",
			x(g.Limit), height-bottom+16+i%2*13, sign, result.Number(g.Limit, 0))
	}
	b.WriteString("</svg>\n")
	return b.String(), true
}

func drawRow(b *strings.Builder, r *result.Row, c result.Column, y int, x func(float64) float64) {
	v, name := r.Median[c.Name], r.Subject+", "+r.Case
	fmt.Fprintf(b, `<text x="%d" y="%d" text-anchor="end" fill="#1f2328">%s</text>`+"\n", left-8, y+14, html.EscapeString(name))
	fmt.Fprintf(b, `<rect x="%d" y="%d" width="%.1f" height="%d" fill="%s"/>`+"\n", left, y, x(v)-left, bar, colour(r.Subject))
	furthest := v
	for _, run := range r.Runs {
		fmt.Fprintf(b, `<circle cx="%.1f" cy="%d" r="2.5" fill="#1f2328" fill-opacity="0.55"/>`+"\n", x(run[c.Name]), y+bar/2)
		furthest = max(furthest, run[c.Name])
	}
	fmt.Fprintf(b, `<text x="%.1f" y="%d" fill="#1f2328">%s</text>`+"\n", x(furthest)+6, y+14, result.Number(v, c.Decimals))
}

func columnOf(figure string) result.Column {
	for _, c := range result.Columns() {
		if c.Name == figure {
			return c
		}
	}
	return result.Column{Name: figure, Title: figure, Decimals: 2}
}

func rowsWith(s *result.Scenario, figure string) (rows []*result.Row) {
	for _, r := range s.Rows {
		if _, ok := r.Median[figure]; ok {
			rows = append(rows, r)
		}
	}
	return rows
}

// limits returns the goals for a figure, each limit once.
func limits(s *result.Scenario, figure string) (goals []result.Goal) {
	seen := make(map[float64]bool)
	for _, g := range s.Goals {
		if g.Figure == figure && !seen[g.Limit] {
			seen[g.Limit] = true
			goals = append(goals, g)
		}
	}
	return goals
}

package web

import (
	"fmt"
	"time"

	"github.com/smshooks/smshooks/internal/event"
)

// The size of the chart in its own units. Successes grow up from the middle line, failures down.
const (
	chartWidth, chartHeight = 720, 120
	maxBars                 = 36
	chartSpan               = 7 * 24 * time.Hour
)

// chart shows how many attempts succeeded and failed over time.
type chart struct {
	Width, Height, Middle int
	Bars                  []bar
	Summary               string
	From, To              string
}

// bar is one interval of the chart.
type bar struct {
	X, Width         float64
	OKY, OKHeight    float64
	FailedHeight     float64
	OK, Failed       int
	Title            string
	HasOK, HasFailed bool
}

// steps are the possible lengths of an interval.
var steps = []time.Duration{
	5 * time.Second, 15 * time.Second, time.Minute, 5 * time.Minute, 15 * time.Minute, time.Hour, 3 * time.Hour,
	6 * time.Hour,
}

// newChart draws attempts, which are sorted newest first, up to now. It returns nil if there are none.
func newChart(attempts []event.Attempt, now time.Time) *chart {
	for len(attempts) > 0 && now.Sub(attempts[len(attempts)-1].Time) > chartSpan {
		attempts = attempts[:len(attempts)-1]
	}
	if len(attempts) == 0 {
		return nil
	}
	oldest := attempts[len(attempts)-1].Time
	step := steps[len(steps)-1]
	for _, s := range steps {
		if now.Sub(oldest) < s*(maxBars-1) {
			step = s
			break
		}
	}
	from := oldest.Truncate(step)
	bars := make([]bar, min(maxBars, max(12, int(now.Sub(from)/step)+1)))
	from = now.Truncate(step).Add(-step * time.Duration(len(bars)-1))
	ok := 0
	for i := range attempts {
		at := min(max(int(attempts[i].Time.Sub(from)/step), 0), len(bars)-1) // another instance's clock may be ahead
		if attempts[i].Failure == "" {
			bars[at].OK++
			ok++
		} else {
			bars[at].Failed++
		}
	}
	c := &chart{Width: chartWidth, Height: chartHeight, Bars: bars, From: shortTime(from), To: shortTime(now)}
	c.lay(from, step)
	c.Summary = fmt.Sprintf("%d of the latest %d attempts succeeded (%d %%), since %s UTC.", ok, len(attempts),
		100*ok/len(attempts), shortTime(oldest))
	return c
}

// lay computes the positions of the bars. Both directions have the same scale.
func (c *chart) lay(from time.Time, step time.Duration) {
	mostOK, mostFailed := 0, 0
	for _, b := range c.Bars {
		mostOK, mostFailed = max(mostOK, b.OK), max(mostFailed, b.Failed)
	}
	scale := float64(chartHeight-2) / float64(max(1, mostOK+mostFailed))
	middle := 1 + float64(mostOK)*scale
	c.Middle = int(middle + 0.5)
	pitch := float64(chartWidth) / float64(len(c.Bars))
	for i := range c.Bars {
		b := &c.Bars[i]
		b.X, b.Width = round(float64(i)*pitch+1), round(pitch-2)
		height := func(n int) float64 {
			if n == 0 {
				return 0
			}
			return round(max(1.5, float64(n)*scale))
		}
		b.OKHeight, b.FailedHeight = height(b.OK), height(b.Failed)
		b.OKY = round(float64(c.Middle) - b.OKHeight)
		b.HasOK, b.HasFailed = b.OK > 0, b.Failed > 0
		b.Title = fmt.Sprintf("%s UTC: %d succeeded, %d failed", shortTime(from.Add(step*time.Duration(i))), b.OK, b.Failed)
	}
}

func round(x float64) float64 { return float64(int(x*10+0.5)) / 10 }

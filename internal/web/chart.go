package web

import (
	"fmt"
	"html/template"
	"iter"
	"math"
	"time"

	"github.com/smshooks/smshooks/internal/deliverylog"
	"github.com/smshooks/smshooks/internal/event"
)

// The chart fills the width of the page, so horizontal positions are percentages; heights are pixels. Successes grow up
// from the zero line, failures down.
const (
	plotTop, plotHeight = 14, 130
	maxBars             = 36
	maxTicks            = 5 // of the time axis; more do not fit on a phone
	chartSpan           = 7 * 24 * time.Hour
)

// chart shows the numbers of successful and failed attempts over time.
type chart struct {
	Height  int     // of the whole picture
	Bottom  float64 // of the plot
	TickEnd float64
	Labels  float64 // base line of the times
	Zero    float64
	Bars    []bar
	Counts  []countTick
	Times   []timeTick
	Summary string
}

// bar is one interval of the chart.
type bar struct {
	At               time.Time
	X, Width         string
	OKY, OKHeight    float64
	FailedHeight     float64
	OK, Failed       int
	HasOK, HasFailed bool
	Title            string
}

// countTick is a line at a number of attempts.
type countTick struct {
	Y, Label float64
	Count    int
}

// timeTick is a mark on the time axis. Style selects the part of the time that is shown.
type timeTick struct {
	X           string
	At          time.Time
	Text, Style string
}

// intervals are the possible lengths of a bar, and of the distance between marks of the time axis.
var intervals = []time.Duration{
	5 * time.Second, 15 * time.Second, 30 * time.Second, time.Minute, 2 * time.Minute, 5 * time.Minute,
	15 * time.Minute, 30 * time.Minute, time.Hour, 2 * time.Hour, 4 * time.Hour, 6 * time.Hour, 12 * time.Hour,
	24 * time.Hour, 48 * time.Hour,
}

// newChart draws the attempts of events, up to now. It returns nil if there are none in the latest seven days.
func newChart(events []deliverylog.Event, now time.Time) *chart {
	oldest, all := now, 0
	each(events, now, func(a event.LogEntry) {
		all++
		if a.Time.Before(oldest) {
			oldest = a.Time
		}
	})
	if all == 0 {
		return nil
	}
	step := atLeast(now.Sub(oldest)/(maxBars-1) + 1)
	bars := make([]bar, min(maxBars, max(12, int(now.Sub(oldest.Truncate(step))/step)+1)))
	from := now.Truncate(step).Add(-step * time.Duration(len(bars)-1))
	ok := 0
	each(events, now, func(a event.LogEntry) {
		at := min(max(int(a.Time.Sub(from)/step), 0), len(bars)-1) // another instance's clock may be ahead
		if a.Failure == "" {
			bars[at].OK++
			ok++
		} else {
			bars[at].Failed++
		}
	})
	c := &chart{Bars: bars}
	c.layBars(from, step)
	c.layTimes(from, step*time.Duration(len(bars)))
	c.Summary = fmt.Sprintf("%d of %s succeeded (%d %%)", ok, plural(all, "attempt"), 100*ok/all)
	return c
}

// each calls f for the attempts that the chart shows.
func each(events []deliverylog.Event, now time.Time, f func(event.LogEntry)) {
	for i := range events {
		for a := range attempts(&events[i]) {
			if now.Sub(a.Time) < chartSpan-6*time.Hour {
				f(a)
			}
		}
	}
}

// attempts returns the attempts of an event that are among the user's latest ones: of the time before, only those of
// events that waited are known. A request to the failover URL belongs to the attempt of the request before
// it: the attempt has its result, and the time of both.
func attempts(e *deliverylog.Event) iter.Seq[event.LogEntry] {
	return func(yield func(event.LogEntry) bool) {
		for i := 0; i < len(e.Attempts); i++ {
			if e.Attempts[i].Extra {
				continue
			}
			a := e.Attempts[i].LogEntry
			if i+1 < len(e.Attempts) && !a.Failover {
				if next := &e.Attempts[i+1]; next.Failover && next.Number == a.Number {
					a.Failure, a.Took = next.Failure, a.Took+next.Took
					i++
				}
			}
			if !yield(a) {
				return
			}
		}
	}
}

// atLeast returns the shortest interval that is not shorter than d.
func atLeast(d time.Duration) time.Duration {
	for _, i := range intervals {
		if i >= d {
			return i
		}
	}
	return intervals[len(intervals)-1]
}

// layBars computes the positions of the bars and of the lines behind them. Both directions have the same scale.
func (c *chart) layBars(from time.Time, step time.Duration) {
	mostOK, mostFailed := 0, 0
	for _, b := range c.Bars {
		mostOK, mostFailed = max(mostOK, b.OK), max(mostFailed, b.Failed)
	}
	tick := roundCount(mostOK + mostFailed)
	up, down := (mostOK+tick-1)/tick*tick, (mostFailed+tick-1)/tick*tick
	scale := float64(plotHeight) / float64(up+down)
	c.Zero = round(plotTop + float64(up)*scale)
	c.Bottom = plotTop + plotHeight
	c.TickEnd, c.Labels, c.Height = c.Bottom+5, c.Bottom+19, plotTop+plotHeight+24
	for n := up; n >= -down; n -= tick {
		y := round(plotTop + float64(up-n)*scale)
		c.Counts = append(c.Counts, countTick{y, y + 4, max(n, -n)})
	}
	pitch := 100 / float64(len(c.Bars))
	for i := range c.Bars {
		b := &c.Bars[i]
		b.At = from.Add(step * time.Duration(i))
		b.X, b.Width = percent((float64(i)+.1)*pitch), percent(.8*pitch)
		height := func(n int) float64 { return round(max(2, float64(n)*scale)) }
		b.OKHeight, b.FailedHeight = height(b.OK), height(b.Failed)
		b.OKY = round(c.Zero - b.OKHeight)
		b.HasOK, b.HasFailed = b.OK > 0, b.Failed > 0
		b.Title = fmt.Sprintf("%s UTC: %d succeeded, %d failed", shortTime(b.At), b.OK, b.Failed)
	}
}

// layTimes computes the marks of the time axis, at whole multiples of an interval.
func (c *chart) layTimes(from time.Time, span time.Duration) {
	distance := atLeast(span / maxTicks)
	if distance > 6*time.Hour {
		distance = max(distance, 24*time.Hour) // two marks of one day would have the same text
	}
	layout, style := "15:04", "minute"
	switch {
	case distance < time.Minute:
		layout, style = "15:04:05", "second"
	case distance >= 24*time.Hour:
		layout, style = "2 Jan", "day"
	}
	for at := from.Truncate(distance); at.Before(from.Add(span)); at = at.Add(distance) {
		// A label is centred on its mark and must not be cut off.
		if x := 100 * float64(at.Sub(from)) / float64(span); x >= 4 && x <= 96 {
			c.Times = append(c.Times, timeTick{percent(x), at, at.UTC().Format(layout), style})
		}
	}
}

// Busy returns the bars that are not empty, newest first.
func (c *chart) Busy() (all []bar) {
	for i := len(c.Bars) - 1; i >= 0; i-- {
		if b := c.Bars[i]; b.HasOK || b.HasFailed {
			all = append(all, b)
		}
	}
	return all
}

// roundCount returns 1, 2 or 5 times a power of ten, so that at most four steps of it reach n.
func roundCount(n int) int {
	for power := 1; ; power *= 10 {
		for _, f := range []int{1, 2, 5} {
			if 4*f*power >= n {
				return f * power
			}
		}
	}
}

func round(x float64) float64 { return math.Round(x*10) / 10 }

func percent(x float64) string { return fmt.Sprintf("%.2f%%", x) }

// shortTime formats a time of the page, which scripts turn into the time of the user's zone.
func shortTime(t time.Time) string { return t.UTC().Format("2006-01-02 15:04:05") }

// timeElement returns a time, "" if it is zero.
func timeElement(t time.Time) template.HTML {
	if t.IsZero() {
		return ""
	}
	return template.HTML(fmt.Sprintf(`<time datetime="%s">%s UTC</time>`, machineTime(t), shortTime(t)))
}

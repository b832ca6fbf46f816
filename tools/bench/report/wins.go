package report

import (
	"math"
	"strings"

	"github.com/smshooks/smshooks/tools/bench/result"
)

// service is the subject that the others are compared with. The bare client and the limit do only a part of its work.
const service = "smshooks"

// win is a case in which another subject did better than the service.
type win struct {
	Scenario, Case, Subject string
	Figures                 string // theirs and the service's
}

// margin is by how much a figure must be better. Less is within the noise of a run.
const margin = 0.05

// wins returns where the figures of other subjects are better than those of the service in the same case.
func wins(r *result.Report) []win {
	var found []win
	for _, s := range r.Scenarios {
		for _, row := range s.Rows {
			if row.Subject == service || row.Subject == "bare client" || row.Subject == "limit" {
				continue
			}
			if figures := better(s, row); len(figures) > 0 {
				found = append(found, win{s.Name, row.Case, row.Subject, strings.Join(figures, "; ")})
			}
		}
	}
	return found
}

// better lists the figures of a row that are better than the service's. It compares nothing if the loads differ.
func better(s *result.Scenario, row *result.Row) []string {
	theirs, load := row.Median[result.Sent]
	if own, ok := s.Median(service, row.Case, result.Sent); ok != load || math.Abs(theirs-own) > 0.01*own {
		return nil
	}
	var figures []string
	for _, c := range result.Columns() {
		v, measured := row.Median[c.Name]
		own, ok := s.Median(service, row.Case, c.Name)
		if !measured || !ok {
			continue
		}
		switch c.Name {
		case result.CPU, result.P50, result.P99, result.RSS, result.Idle: // less is better
			ok = v < own*(1-margin)
		case result.Rate: // of a backlog; otherwise the load decides
			ok = !load && v > own*(1+margin)
		default:
			ok = false
		}
		if ok {
			figures = append(figures, c.Title+" "+result.Number(v, c.Decimals)+", not "+result.Number(own, c.Decimals))
		}
	}
	return figures
}

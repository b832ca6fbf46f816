package main

import (
	"bytes"
	"fmt"
	"math"
	"os"
	"slices"
	"strconv"

	"go.yaml.in/yaml/v3"
)

// values holds what differs between installations. deploy/grafana/values.yaml describes each value.
type values struct {
	Cluster   string `yaml:"cluster_label"`
	Namespace string `yaml:"namespace_label"`
	Targets   string
	Grafana   string
	Runbook   string
	Objective float64
	Within    int
	Interval  int `yaml:"revocation_interval"`
}

// buckets are the ends of the buckets of smshooks_first_attempt_seconds that are whole seconds.
var buckets = []int{1, 5, 10, 30, 60, 300, 1800, 21600}

const (
	burnsFast = 14.4 // times the allowed share of late attempts, in SmshooksBudgetBurnsFast
	lowest    = 1 - 1/burnsFast
)

func readValues(file string) (v values, err error) {
	text, err := os.ReadFile(file)
	if err != nil {
		return v, fmt.Errorf("read values: %w", err)
	}
	decoder := yaml.NewDecoder(bytes.NewReader(text))
	decoder.KnownFields(true)
	if err := decoder.Decode(&v); err != nil {
		return v, fmt.Errorf("%s: %w", file, err)
	}
	if v.Cluster == "" || v.Namespace == "" || v.Targets == "" || v.Grafana == "" || v.Runbook == "" || v.Interval <= 0 {
		return v, fmt.Errorf("%s: every value must be set, and revocation_interval be above 0", file)
	}
	if !slices.Contains(buckets, v.Within) {
		return v, fmt.Errorf("%s: within: %d is not the end of a bucket, so its alerts would never fire; use one of %v",
			file, v.Within, buckets)
	}
	if v.Objective <= lowest || v.Objective >= 1 {
		return v, fmt.Errorf("%s: objective: %v must be above %.4f and below 1; at %v times the share of late attempts "+
			"that it allows an alert fires, which must be below 100 %%", file, v.Objective, lowest, burnsFast)
	}
	return v, nil
}

// Group returns the labels that identify an installation.
func (v values) Group() string { return v.Cluster + ", " + v.Namespace + ", job" }

// Budget returns the share of first attempts that may be late.
func (v values) Budget() string {
	return strconv.FormatFloat(math.Round((1-v.Objective)*1e9)/1e9, 'f', -1, 64)
}

// Unsettled returns the seconds after which an unsettled record is too old: revocations are collected for the interval.
func (v values) Unsettled() int { return 240 + v.Interval }

// bound returns a pattern for the label le of the objective's bucket: Prometheus stores "10" as "10.0" from version 3
// on.
func (v values) bound() string { return fmt.Sprintf(`%d(\\.0)?`, v.Within) }

package main

import (
	"bytes"
	"fmt"
	"math"
	"os"
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
	if v.Cluster == "" || v.Namespace == "" || v.Targets == "" || v.Grafana == "" || v.Runbook == "" || v.Within <= 0 || v.Interval <= 0 || v.Objective <= 0 || v.Objective >= 1 {
		return v, fmt.Errorf("%s: every value must be set, and objective be between 0 and 1", file)
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

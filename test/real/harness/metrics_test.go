package harness

import (
	"strings"
	"testing"
)

func TestParseMetrics(t *testing.T) {
	m, err := parseMetrics(strings.NewReader(`# HELP a_total text
# TYPE a_total counter
a_total{kind="dlr",fate="dead"} 2
a_total{kind="dlr",fate="delivered"} 3
a_total{kind="click",fate="dead"} 4
a_total_more 100
smshooks_records_consumed_total{topic="x y"} 1.5e+01
b 0
`))
	if err != nil {
		t.Fatal(err)
	}
	for _, tc := range []struct {
		name   string
		labels []string
		want   float64
	}{
		{"a_total", nil, 9},
		{"a_total", []string{"kind", "dlr"}, 5},
		{"a_total", []string{"fate", "dead"}, 6},
		{"a_total", []string{"kind", "dlr", "fate", "dead"}, 2},
		{"a_total", []string{"ate", "dead"}, 0},
		{"smshooks_records_consumed_total", []string{"topic", "x y"}, 15},
		{"absent", nil, 0},
	} {
		if got := m.Sum(tc.name, tc.labels...); got != tc.want {
			t.Errorf("Sum(%s, %v) = %v, want %v", tc.name, tc.labels, got, tc.want)
		}
	}
	if m[`a_total{kind="dlr",fate="dead"}`] != 2 || !m.Has("b") || m.Has("a") {
		t.Error("keys are not as printed")
	}
	if c, s := m.Ledger(); c != 15 || s != 0 {
		t.Errorf("ledger %v %v", c, s)
	}
	if _, err := parseMetrics(strings.NewReader("no-value")); err == nil {
		t.Error("a line without a value was accepted")
	}
}

func TestNames(t *testing.T) {
	n := TopicsWith("p")
	if got := Variable("topics.dead_letter"); got != "SMSHOOKS_TOPICS_DEAD_LETTER" {
		t.Error(got)
	}
	if got := strings.Join(n.Flags(), " "); !strings.Contains(got, "--topics.dead_letter=p-webhook-dead-letter") {
		t.Error(got)
	}
	if got := Retry(n.DLR, "6h"); got != "p-sms-dlr-retry-6h" {
		t.Error(got)
	}
	if a, b := TopicsFor(t), TopicsFor(t); a == b {
		t.Error("the same names twice")
	}
}

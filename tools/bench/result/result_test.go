package result

import (
	"bytes"
	"reflect"
	"strings"
	"testing"
	"time"
)

func TestMedian(t *testing.T) {
	for _, tc := range []struct {
		in   []float64
		want float64
	}{{nil, 0}, {[]float64{3}, 3}, {[]float64{9, 1, 5}, 5}, {[]float64{4, 1, 3, 2}, 2.5}} {
		if got := Median(tc.in); got != tc.want {
			t.Errorf("Median(%v) = %v, want %v", tc.in, got, tc.want)
		}
	}
	in := []float64{3, 1, 2}
	Median(in)
	if !reflect.DeepEqual(in, []float64{3, 1, 2}) {
		t.Errorf("Median changed its argument to %v", in)
	}
}

func TestNumber(t *testing.T) {
	for _, tc := range []struct {
		v        float64
		decimals int
		want     string
	}{{0, 0, "0"}, {999, 0, "999"}, {1000, 0, "1,000"}, {1234567.891, 2, "1,234,567.89"}, {-12345, 0, "-12,345"}, {-0.5, 1, "-0.5"}} {
		if got := Number(tc.v, tc.decimals); got != tc.want {
			t.Errorf("Number(%v, %d) = %q, want %q", tc.v, tc.decimals, got, tc.want)
		}
	}
}

func sample() *Scenario {
	s := &Scenario{Name: "users", Title: "the number of users"}
	for _, v := range []float64{10, 30, 20} {
		s.Row("smshooks", "10 users").Add(Figures{CPU: v, Rate: 75_000})
	}
	s.Row("smshooks", "1,000 users").Add(Figures{CPU: 22})
	s.Row("hand-written", "10 users").Add(Figures{CPU: 40, RSS: 54})
	return s
}

func TestRows(t *testing.T) {
	s := sample()
	if len(s.Rows) != 3 {
		t.Fatalf("%d rows, want 3", len(s.Rows))
	}
	if got, ok := s.Median("smshooks", "10 users", CPU); got != 20 || !ok {
		t.Errorf("median CPU %v, %v; want 20", got, ok)
	}
	if _, ok := s.Median("smshooks", "10 users", RSS); ok {
		t.Error("a figure that was not measured has a median")
	}
	if got, ok := s.Spread("smshooks", CPU); !ok || got < 0.0999 || got > 0.1001 {
		t.Errorf("spread %v, %v; want 0.1", got, ok)
	}
	if _, ok := s.Spread("hand-written", CPU); ok {
		t.Error("one row has a spread")
	}
}

func TestGoals(t *testing.T) {
	s := sample()
	s.Want("most, met", "smshooks", "10 users", CPU, true, 20)
	s.Want("most, missed", "smshooks", "10 users", CPU, true, 19.9)
	s.Want("least, met", "smshooks", "10 users", Rate, false, 75_000)
	s.Want("least, missed", "smshooks", "10 users", Rate, false, 75_001)
	s.Want("not measured", "smshooks", "10 users", RSS, true, 1)
	var got []string
	for _, g := range s.Goals {
		got = append(got, g.Text+": "+g.Verdict())
	}
	want := []string{"most, met: met", "most, missed: not met", "least, met: met", "least, missed: not met"}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("goals %q, want %q", got, want)
	}
}

func TestCompare(t *testing.T) {
	s := sample()
	s.Compare("cpu", CPU, "smshooks", "10 users", "hand-written", "10 users")
	s.Compare("not measured", CPU, "smshooks", "10 users", "limit", "10 users")
	if len(s.Ratios) != 1 || s.Ratios[0].Value != 0.5 {
		t.Errorf("ratios %v, want one of 0.5", s.Ratios)
	}
	s.WantRatio("rate", CPU, "smshooks", "10 users", "hand-written", "10 users", 0.4)
	s.WantRatio("not measured", CPU, "smshooks", "10 users", "limit", "10 users", 1)
	if len(s.Ratios) != 2 || len(s.Goals) != 1 || s.Goals[0].Met || s.Goals[0].Text != "rate: at most 0.4" {
		t.Errorf("ratios %v, goals %v; want two, and one that is missed", s.Ratios, s.Goals)
	}
}

func TestPrint(t *testing.T) {
	s := sample()
	s.Want("at most 19", "smshooks", "10 users", CPU, true, 19)
	var b bytes.Buffer
	if err := s.Print(&b); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"CPU-µs/delivery  per second  peak RSS MB", "  smshooks      10 users                20.0      75,000", "goal: at most 19: 20.00: not met"} {
		if !strings.Contains(b.String(), want) {
			t.Errorf("no %q in\n%s", want, b.String())
		}
	}
}

func TestJSON(t *testing.T) {
	r := &Report{Machine: Machine{Cores: 2, CPU: "a <processor>"}, Date: time.Date(2026, 2, 27, 14, 30, 0, 0, time.UTC), RunsEach: 3, Scenarios: []*Scenario{sample()}}
	var b bytes.Buffer
	if err := r.Write(&b); err != nil {
		t.Fatal(err)
	}
	back, err := Read(&b)
	if err != nil {
		t.Fatal(err)
	}
	if !reflect.DeepEqual(r, back) {
		t.Errorf("read back %+v, want %+v", back, r)
	}
}

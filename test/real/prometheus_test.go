package real_test

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/smshooks/smshooks/test/real/harness"
)

// mayBeZero lists the panels that may show only zeros. Every other panel must show something above zero under the load
// of this test.
var mayBeZero = []string{
	"Overdue", "Ledger", "Stalled", "Settings", "Miskeyed records", "Rejected commits", "Dropped lines", "Orphaned records",
	"Source lag", "Source lag now", "Overdue now", "Lag by topic", "Lag in time", "Burn rate", "Skipped batches", "Postponed requests", "Redis evicts",
	"Recoveries", "Endpoint events", "Failover requests", "Lag by partition", "Time to catch up", "Partitions now", "Connections to Kafka",
}

// TestDashboards lets Debian's Prometheus scrape a loaded service and runs every query of both dashboards and every
// alert rule. None may fail or be empty.
func TestDashboards(t *testing.T) {
	t.Parallel()
	e := newEnv(t, "--retry.schedule=1s,1s", "--dispatch.queue_per_endpoint=8", "--dispatch.timeout=1s")
	p := e.serve(t)
	prom := startPrometheus(t, p.OpsAddr)
	began := time.Now()
	e.allFates(t)
	m := p.Metrics(t)
	for _, fate := range []string{"delivered", "retry", "overflow", "dead", "not_configured", "filtered", "duplicate", "batched", "paused"} {
		if m.Sum("smshooks_settled_total", "fate", fate) == 0 {
			t.Errorf("the load led to no %s", fate)
		}
	}
	for _, result := range []string{"ok", "failed", "timeout", "error", "blocked"} {
		if m.Sum("smshooks_attempts_total", "result", result) == 0 {
			t.Errorf("the load led to no attempt that is %s", result)
		}
	}
	t.Run("panels", func(t *testing.T) { prom.askPanels(t, began) })
	t.Run("variables", func(t *testing.T) { prom.askVariables(t, p.OpsAddr) })
	t.Run("rules", func(t *testing.T) { prom.askRules(t) })
	if os.Getenv("SMSHOOKS_TEST_PICTURES") != "" {
		t.Run("pictures", func(t *testing.T) { prom.drawPanels(t, began) })
	}
}

// allFates loads the service for some seconds so that every fate and every result occurs.
func (e *env) allFates(t *testing.T) {
	t.Helper()
	const ok, failing, hanging, slow, blocked, refused, none, paused = 1, 2, 3, 4, 5, 6, 7, 8
	gone := "http://" + harness.FreeAddr(t) + "/"
	e.configure(t, map[int64]harness.Webhook{
		ok: e.all(ok, "user:pass"), failing: e.all(failing, ""), hanging: e.all(hanging, ""), slow: e.all(slow, ""),
		blocked: {DLR: "http://169.254.169.254/", Click: "http://169.254.169.254/", Inbound: "http://169.254.169.254/", Revoke: "http://169.254.169.254/"},
		refused: {DLR: gone, Click: gone, Inbound: gone, Revoke: gone},
	})
	e.emit(t, e.pausedDocument(t, paused, "dlr", "click", "inbound", "revoke_click"))
	for _, kind := range []string{"dlr", "click", "inbound", "revoke"} {
		e.recv.On(path(kind, failing), harness.Status(503))
		e.recv.On(path(kind, hanging), harness.Hang())
		e.recv.On(path(kind, slow), harness.Slow(200*time.Millisecond, 200))
	}
	sms := int64(0)
	for round := range 20 {
		var load []*kgo.Record
		for i := range int64(100) { // more than the queue of an endpoint holds
			if kind := []string{e.topics.DLR, e.topics.Click}; round%5 == 0 {
				load = append(load, harness.Event(kind[i%2], slow, harness.DLRValue(slow, 10_000_000+int64(round)*100+i)))
			}
		}
		for _, user := range []int64{ok, ok, ok, failing, hanging, slow, slow, slow, slow, blocked, refused, none, paused} {
			sms++
			bot := strings.TrimSuffix(harness.ClickValue(user, sms+1_000_000), "}") + `,"bot":true}`
			load = append(load, e.dlr(user, sms), e.click(user, sms), e.click(user, sms), harness.Event(e.topics.Inbound, user, harness.InboundValue(user, sms)),
				harness.Event(e.topics.Click, user, bot), e.revocation(user, []int64{sms}, nil))
		}
		e.emit(t, load...)
		harness.Pass(time.Second)
	}
}

// prometheus is a running Prometheus.
type prometheus struct{ addr string }

// startPrometheus scrapes target once a second, with the rules of deploy/prometheus.
func startPrometheus(t *testing.T, target string) *prometheus {
	t.Helper()
	binary, err := exec.LookPath("prometheus")
	if err != nil {
		t.Fatalf("%v: test/stack/up.sh installs Debian's", err)
	}
	rules, err := filepath.Abs("../../deploy/prometheus/rules/smshooks.yml")
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	config := fmt.Sprintf("global: {scrape_interval: 1s, evaluation_interval: 1s}\nrule_files: [%q]\nscrape_configs:\n- {job_name: smshooks, static_configs: [{targets: [%q], labels: {cluster: test, namespace: hooks}}]}\n", rules, target)
	file := filepath.Join(dir, "prometheus.yml")
	if err := os.WriteFile(file, []byte(config), 0o600); err != nil {
		t.Fatal(err)
	}
	prom := &prometheus{harness.FreeAddr(t)}
	out, err := os.Create(filepath.Join(dir, "log"))
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(binary, "--config.file="+file, "--storage.tsdb.path="+filepath.Join(dir, "data"), "--web.listen-address="+prom.addr)
	cmd.Stdout, cmd.Stderr = out, out
	if err := cmd.Start(); err != nil {
		t.Fatalf("start prometheus: %v", err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
		if text, err := os.ReadFile(out.Name()); err == nil && t.Failed() {
			t.Logf("log of prometheus:\n%s", text)
		}
		out.Close()
	})
	harness.Eventually(t, harness.Patience, func() bool {
		resp, err := http.Get("http://" + prom.addr + "/-/ready")
		if err == nil {
			resp.Body.Close()
		}
		return err == nil && resp.StatusCode == http.StatusOK
	}, "Prometheus is ready")
	return prom
}

// get requests a path of the API and decodes its data.
func (p *prometheus) get(t *testing.T, path string, query url.Values, data any) {
	t.Helper()
	resp, err := http.Get("http://" + p.addr + "/api/v1/" + path + "?" + query.Encode())
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	reply := struct {
		Status, Error string
		Data          any
	}{Data: data}
	if err := json.Unmarshal(body, &reply); err != nil || reply.Status != "success" {
		t.Errorf("%s %v: %s %v: %s", path, query, resp.Status, err, body)
	}
}

// series is a series of a reply.
type series struct {
	Metric map[string]string
	Value  []any
	Values [][]any
}

// ask returns the series that a panel would show; from and to are for a range.
func (p *prometheus) ask(t *testing.T, expr string, instant bool, from, to time.Time) []series {
	t.Helper()
	q := url.Values{"query": {expr}}
	path := "query"
	if !instant {
		path = "query_range"
		q.Set("start", fmt.Sprint(from.Unix()))
		q.Set("end", fmt.Sprint(to.Unix()))
		q.Set("step", "1")
	}
	var data struct{ Result []series }
	p.get(t, path, q, &data)
	return data.Result
}

// samples returns the samples of a series that are numbers.
func samples(all []series) (values []float64) {
	add := func(sample []any) {
		if len(sample) != 2 {
			return
		}
		if v, err := strconv.ParseFloat(fmt.Sprint(sample[1]), 64); err == nil && v == v {
			values = append(values, v)
		}
	}
	for _, s := range all {
		add(s.Value)
		for _, sample := range s.Values {
			add(sample)
		}
	}
	return values
}

// panel holds the needed fields of a dashboard's panel.
type panel struct {
	Title, Description string
	Type               string
	GridPos            struct{ X, Y, W, H int }
	FieldConfig        struct {
		Defaults struct {
			Unit       string
			Thresholds struct{ Steps []struct{ Value float64 } }
		}
	}
	Panels  []panel
	Targets []struct {
		Expr, LegendFormat string
		Instant            bool
	}
}

// dashboard holds the needed fields of a dashboard.
type dashboard struct {
	Title      string
	Panels     []panel
	Templating struct {
		List []struct{ Type, Name, Definition string }
	}
	Annotations struct {
		List []struct{ Name, Expr, IconColor string }
	}
}

func dashboards(t *testing.T) []dashboard {
	t.Helper()
	files, err := filepath.Glob("../../deploy/grafana/dashboards/*.json")
	if err != nil || len(files) != 2 {
		t.Fatalf("dashboards: %v, %v", files, err)
	}
	var all []dashboard
	for _, file := range files {
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		var d dashboard
		if err := json.Unmarshal(text, &d); err != nil {
			t.Fatalf("%s: %v", file, err)
		}
		all = append(all, d)
	}
	return all
}

// variables as Grafana would put them in.
var variables = strings.NewReplacer("$__rate_interval", "10s", "$__range", "1m",
	"$cluster", "test", "$namespace", "hooks", "$job", "smshooks", "$instance", ".+")

func (p *prometheus) askPanels(t *testing.T, began time.Time) {
	asked := 0
	var ask func(t *testing.T, d dashboard, panels []panel)
	ask = func(t *testing.T, d dashboard, panels []panel) {
		for _, panel := range panels {
			ask(t, d, panel.Panels)
			if panel.Type != "row" && len(panel.Targets) == 0 {
				t.Errorf("%s, %s: no query", d.Title, panel.Title)
			}
			for _, target := range panel.Targets {
				asked++
				expr := variables.Replace(target.Expr)
				if strings.Contains(expr, "$") {
					t.Errorf("%s, %s: an unknown variable: %s", d.Title, panel.Title, expr)
				}
				got := samples(p.ask(t, expr, target.Instant, began, time.Now()))
				switch {
				case len(got) == 0:
					t.Errorf("%s, %s: empty: %s", d.Title, panel.Title, expr)
				case slices.Max(got) <= 0 && !slices.Contains(mayBeZero, panel.Title):
					t.Errorf("%s, %s: nothing above zero: %s", d.Title, panel.Title, expr)
				}
			}
		}
	}
	for _, d := range dashboards(t) {
		ask(t, d, d.Panels)
		for _, a := range d.Annotations.List {
			asked++
			expr := variables.Replace(a.Expr)
			got := p.ask(t, expr, false, began, time.Now())
			if a.Name == "Rebalances" && len(got) == 0 { // the partitions were assigned before the first scrape
				got = p.ask(t, regexp.MustCompile(`\w+\{[^}]*\}`).FindString(expr), false, began, time.Now())
			}
			if len(got) == 0 {
				t.Errorf("%s: no annotations of %s: %s", d.Title, a.Name, a.Expr)
			}
		}
	}
	t.Logf("%d queries", asked)
	if asked < 40 {
		t.Errorf("only %d queries", asked)
	}
}

func (p *prometheus) askVariables(t *testing.T, instance string) {
	labelValues := regexp.MustCompile(`^label_values\((.+), (\w+)\)$`)
	for _, d := range dashboards(t) {
		for _, v := range d.Templating.List {
			if v.Type != "query" {
				continue
			}
			parts := labelValues.FindStringSubmatch(v.Definition)
			if parts == nil {
				t.Errorf("%s: variable %s is %q", d.Title, v.Name, v.Definition)
				continue
			}
			var values []string
			p.get(t, "label/"+parts[2]+"/values", url.Values{"match[]": {variables.Replace(parts[1])}}, &values)
			if want := map[string]string{"cluster": "test", "namespace": "hooks", "job": "smshooks", "instance": instance}[v.Name]; !slices.Equal(values, []string{want}) {
				t.Errorf("%s: variable %s has the values %v, want %s", d.Title, v.Name, values, want)
			}
		}
	}
}

// askRules checks that every rule was evaluated without an error, that every metric they use exists, and that the right
// alerts fire.
func (p *prometheus) askRules(t *testing.T) {
	var data struct {
		Groups []struct {
			Rules []struct{ Name, Health, LastError, Query, State string }
		}
	}
	p.get(t, "rules", nil, &data)
	states := map[string]string{}
	metric := regexp.MustCompile(`smshooks[_:][\w:]+`)
	for _, g := range data.Groups {
		for _, r := range g.Rules {
			states[r.Name] = r.State
			if r.Health != "ok" {
				t.Errorf("rule %s: %s %s", r.Name, r.Health, r.LastError)
			}
			for _, name := range metric.FindAllString(r.Query, -1) {
				if len(p.ask(t, `count(`+name+`)`, true, time.Time{}, time.Time{})) == 0 {
					t.Errorf("rule %s uses %s, which does not exist", r.Name, name)
				}
			}
		}
	}
	if len(states) < 10 {
		t.Errorf("%d rules", len(states))
	}
	if states["SmshooksDeadLetters"] != "firing" {
		t.Errorf("SmshooksDeadLetters is %q although there are dead letters", states["SmshooksDeadLetters"])
	}
	for _, name := range []string{"SmshooksDown", "SmshooksInstanceDown", "SmshooksUnreadRecords", "SmshooksCommitStalled", "SmshooksOverdue", "SmshooksLagNotMeasured"} {
		if states[name] != "inactive" {
			t.Errorf("%s is %q", name, states[name])
		}
	}
}

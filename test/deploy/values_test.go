package deploy

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"go.yaml.in/yaml/v3"
)

// helm returns what `helm template` writes for the chart with values. It needs Helm, so it runs with
// SMSHOOKS_TEST_MANIFESTS only, which `make manifests-check` sets.
func helm(t *testing.T, values string) (rendered, refusal string) {
	t.Helper()
	if os.Getenv("SMSHOOKS_TEST_MANIFESTS") == "" {
		t.Skip("needs Helm: make manifests-check")
	}
	file := filepath.Join(t.TempDir(), "values.yaml")
	if err := os.WriteFile(file, []byte(values), 0o600); err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(t.Context(), "go", "tool", "-modfile=tools/helm/go.mod", "helm", "template", "rel",
		"deploy/helm/smshooks", "--kube-version", "v1.34.0", "-f", file)
	cmd.Dir = "../.."
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	if err := cmd.Run(); err != nil {
		return "", stderr.String()
	}
	return stdout.String(), ""
}

// TestChartRefuses checks that the chart refuses values which Kubernetes refuses, or with which the service does not
// work, and says why.
func TestChartRefuses(t *testing.T) {
	tests := map[string]string{
		`fullnameOverride: My_Hooks`:                                       `"My_Hooks" is no name of a Service`,
		`nameOverride: a/b`:                                                `nameOverride: "a/b"`,
		`image: {tag: "a:b"}`:                                              "/image/tag",
		`service: {port: 9464}`:                                            "service.port: 9464",
		`settings: {api: {addr: "0.0.0.0:9464"}}`:                          "both have port 9464",
		`settings: {api: {addr: ":0"}}`:                                    "needs a port from 1 to 65535",
		`settings: {ops: {addr: "127.0.0.1:9464"}}`:                        "settings.ops.addr: \"127.0.0.1:9464\" cannot be reached",
		`settings: {api: {addr: "[::1]:8080"}}`:                            "settings.api.addr: \"[::1]:8080\" cannot be reached",
		`settings: {shutdown: {grace: 26s}}`:                               "use at least 31",
		`podLabels: {app.kubernetes.io/name: x}`:                           "podLabels: the chart sets app.kubernetes.io/name",
		`podAnnotations: {checksum/settings: x}`:                           "podAnnotations: the chart sets checksum/settings",
		`dashboards: {labels: {helm.sh/chart: x}}`:                         "dashboards.labels: the chart sets helm.sh/chart",
		`keda: {enabled: true, minReplicas: 20}`:                           "keda.minReplicas: 20 is more than keda.maxReplicas, 12",
		`extraEnv: [{name: SMSHOOKS_KAFKA_INSTANCE_ID, value: x}]`:         "extraEnv: the chart sets SMSHOOKS_KAFKA_INSTANCE_ID",
		`extraEnv: [{name: SMSHOOKS_OPS_ADDR, value: "0.0.0.0:1"}]`:        "set it under settings",
		`settings: {secrets: {previous_keys: [QUFBQUFBQUFBQUFBQUFBQUFB]}}`: "as SMSHOOKS_SECRETS_PREVIOUS_KEYS",
	}
	secret := regexp.MustCompile("(?m)^\\| `([a-z0-9_.]+)` .*\\(secret\\) \\|$")
	for _, m := range secret.FindAllStringSubmatch(text(t, "../../docs/configuration.md"), -1) {
		path := strings.Split(m[1], ".")
		values := "settings: {" + strings.Join(path, ": {") + ": x" + strings.Repeat("}", len(path))
		tests[values] = "settings." + m[1] + ": a secret does not belong in a ConfigMap"
	}
	if len(tests) < 23 {
		t.Fatalf("%d cases: no secrets found in docs/configuration.md", len(tests))
	}
	for values, want := range tests {
		if _, refusal := helm(t, values); !strings.Contains(refusal, want) {
			t.Errorf("%s: refused with %q, want %q", values, refusal, want)
		}
	}
}

// TestChartAlertsOnUnsettled checks that the alerts on unsettled records follow the time for which revocations are
// collected.
func TestChartAlertsOnUnsettled(t *testing.T) {
	folded, refusal := helm(t, "{prometheusRule: {enabled: true}, settings: {revocation: {interval: 10m}}}")
	out := strings.Join(strings.Fields(folded), " ")
	for _, want := range []string{"(smshooks_source_lag_seconds) > 840", "(smshooks_commit_stalled_seconds) > 840"} {
		if !strings.Contains(out, want) {
			t.Errorf("not rendered: %s %s", want, refusal)
		}
	}
}

// TestChartOddValues checks that values which look like other types, or are as long as possible, reach Kubernetes in a
// form that it accepts.
func TestChartOddValues(t *testing.T) {
	out, refusal := helm(t, `
goMemoryLimit: "429916160"
image: {tag: "v1.2.3@sha256:`+strings.Repeat("0", 64)+`"}
fullnameOverride: `+strings.Repeat("a", 50)+`
topicsEnsure: {enabled: true}
keda: {enabled: true, lagThreshold: 1000000}
`)
	if refusal != "" {
		t.Fatal(refusal)
	}
	for _, want := range []string{`{name: GOMEMLIMIT, value: "429916160"}`, `lagThreshold: "1000000"`, `image: smshooks:v1.2.3@sha256:0`} {
		if !strings.Contains(out, want) {
			t.Errorf("not rendered: %s", want)
		}
	}
	decoder := yaml.NewDecoder(strings.NewReader(out))
	jobs := 0
	for {
		var object struct {
			Kind     string
			Metadata struct {
				Name   string
				Labels map[string]string
			}
		}
		if decoder.Decode(&object) != nil {
			break
		}
		if object.Kind == "Job" {
			jobs++
		}
		if len(object.Metadata.Name) > 63 {
			t.Errorf("%s %s: the name has %d characters", object.Kind, object.Metadata.Name, len(object.Metadata.Name))
		}
		if v := object.Metadata.Labels["app.kubernetes.io/version"]; v != "v1.2.3" && object.Kind != "" {
			t.Errorf("%s: version %q", object.Kind, v)
		}
	}
	if jobs != 1 {
		t.Errorf("%d jobs", jobs)
	}
}

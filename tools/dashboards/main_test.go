package main

import (
	"encoding/json"
	"regexp"
	"strings"
	"testing"

	"go.yaml.in/yaml/v3"
)

const deployDir = "../../deploy"

// TestLabels generates the dashboards and rules for a Prometheus with other labels. No query may use the default ones.
func TestLabels(t *testing.T) {
	v, err := readValues(deployDir + "/grafana/values.yaml")
	if err != nil {
		t.Fatal(err)
	}
	v.Cluster, v.Namespace = "k8s_cluster", "ns"
	files, err := generate(v, deployDir)
	if err != nil {
		t.Fatal(err)
	}
	if len(files) != 3 {
		t.Fatalf("%d files", len(files))
	}
	variables := strings.NewReplacer("$cluster", "", "$namespace", "", "var-cluster", "", "var-namespace", "")
	label := regexp.MustCompile(`\b(cluster|namespace)\b`)
	field := regexp.MustCompile(`\$labels\.\w+`)
	for file, text := range files {
		var content any
		if strings.HasSuffix(file, ".json") {
			err = json.Unmarshal(text, &content)
		} else {
			err = yaml.Unmarshal(text, &content)
		}
		if err != nil {
			t.Fatalf("%s: %v", file, err)
		}
		used := ""
		texts(content, func(key, value string) {
			switch key {
			case "expr", "query", "definition":
			default: // an annotation of an alert
				value = strings.Join(field.FindAllString(value, -1), " ")
			}
			used += value
			if label.MatchString(variables.Replace(value)) {
				t.Errorf("%s: %s has a default label: %s", file, key, value)
			}
		})
		if !strings.Contains(used, "k8s_cluster") || !regexp.MustCompile(`\bns\b`).MatchString(used) {
			t.Errorf("%s does not use the labels", file)
		}
	}
}

// texts calls f with every text in a decoded file and its key.
func texts(in any, f func(key, value string)) {
	switch v := in.(type) {
	case map[string]any:
		for key, value := range v {
			if text, ok := value.(string); ok {
				f(key, text)
			} else {
				texts(value, f)
			}
		}
	case []any:
		for _, value := range v {
			texts(value, f)
		}
	}
}

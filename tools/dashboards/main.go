// Command dashboards generates the Grafana dashboards in deploy/grafana/dashboards.
//
//	go run . -out ../../deploy/grafana/dashboards           writes them
//	go run . -out ../../deploy/grafana/dashboards -check    fails if one there is not what would be written
//
// It is a module of its own, so that what it needs never gets near the service.
package main

import (
	"bytes"
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"path/filepath"

	"github.com/grafana/grafana-foundation-sdk/go/dashboard"
)

func main() {
	out := flag.String("out", ".", "directory of the dashboards")
	check := flag.Bool("check", false, "compare instead of writing")
	flag.Parse()
	if err := run(*out, *check); err != nil {
		fmt.Fprintln(os.Stderr, "dashboards:", err)
		os.Exit(1)
	}
}

func run(dir string, check bool) error {
	for name, builder := range map[string]*dashboard.DashboardBuilder{"pipeline.json": pipeline(), "kafka-lag.json": kafkaLag()} {
		built, err := builder.Build()
		if err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
		enumerate(built.Panels)
		text, err := json.MarshalIndent(built, "", "  ")
		if err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
		text = append(text, '\n')
		file := filepath.Join(dir, name)
		if !check {
			if err := os.WriteFile(file, text, 0o644); err != nil {
				return fmt.Errorf("write: %w", err)
			}
			continue
		}
		there, err := os.ReadFile(file)
		if err != nil {
			return fmt.Errorf("compare: %w", err)
		}
		if !bytes.Equal(there, text) {
			return fmt.Errorf("%s is not what is generated: run make dashboards", file)
		}
	}
	return nil
}

// enumerate gives every panel an id of its own, so that links to a panel stay good.
func enumerate(panels []dashboard.PanelOrRowPanel) {
	for i, p := range panels {
		id := uint32(i + 1)
		if p.RowPanel != nil {
			p.RowPanel.Id = id
		} else {
			p.Panel.Id = &id
		}
	}
}

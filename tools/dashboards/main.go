// Command dashboards generates the Grafana dashboards and the alert rules from deploy/grafana/values.yaml, and checks
// the dashboards against the rules of Grafana's dashboard-linter.
//
//	go run . -deploy ../../deploy           writes them
//	go run . -deploy ../../deploy -check    fails if a file differs
//
// It is a separate module, so that the service does not depend on its libraries.
package main

import (
	"bytes"
	"encoding/json"
	"flag"
	"fmt"
	"hash/crc32"
	"maps"
	"os"
	"path/filepath"
	"slices"

	"github.com/grafana/grafana-foundation-sdk/go/dashboard"
)

func main() {
	deploy := flag.String("deploy", "../../deploy", "directory with grafana and prometheus")
	check := flag.Bool("check", false, "compare instead of writing")
	flag.Parse()
	if err := run(*deploy, *check); err != nil {
		fmt.Fprintln(os.Stderr, "dashboards:", err)
		os.Exit(1)
	}
}

func run(deploy string, check bool) error {
	v, err := readValues(filepath.Join(deploy, "grafana", "values.yaml"))
	if err != nil {
		return err
	}
	files, err := generate(v, deploy)
	if err != nil {
		return err
	}
	for _, file := range slices.Sorted(maps.Keys(files)) {
		if err := put(file, files[file], check); err != nil {
			return err
		}
	}
	return nil
}

// generate returns the files for values v, by their paths under deploy.
func generate(v values, deploy string) (map[string][]byte, error) {
	m, folder := newMixin(v), filepath.Join(deploy, "grafana", "dashboards")
	boards, files := map[string]*dashboard.Dashboard{}, map[string][]byte{}
	for name, builder := range map[string]*dashboard.DashboardBuilder{"pipeline.json": m.pipeline(), "kafka-lag.json": m.kafkaLag()} {
		built, err := builder.Build()
		if err != nil {
			return nil, fmt.Errorf("%s: %w", name, err)
		}
		if err := identify(built.Panels); err != nil {
			return nil, fmt.Errorf("%s: %w", name, err)
		}
		text, err := json.MarshalIndent(built, "", "  ")
		if err != nil {
			return nil, fmt.Errorf("%s: %w", name, err)
		}
		if err := lint(text, filepath.Join(folder, ".lint")); err != nil {
			return nil, fmt.Errorf("%s: %w", name, err)
		}
		boards[name] = &built
		files[filepath.Join(folder, name)] = append(text, '\n')
	}
	text, err := rules(v, boards)
	files[filepath.Join(deploy, "prometheus", "rules", "smshooks.yml")] = text
	return files, err
}

// put writes a file, or compares it.
func put(file string, text []byte, check bool) error {
	if !check {
		if err := os.WriteFile(file, text, 0o644); err != nil {
			return fmt.Errorf("write: %w", err)
		}
		return nil
	}
	there, err := os.ReadFile(file)
	if err != nil {
		return fmt.Errorf("compare: %w", err)
	}
	if !bytes.Equal(there, text) {
		return fmt.Errorf("%s is out of date: run make dashboards", file)
	}
	return nil
}

// identify derives the id of every panel from its title, so that links to a panel stay valid.
func identify(panels []dashboard.PanelOrRowPanel) error {
	seen := map[uint32]bool{}
	for _, p := range panels {
		title := ""
		if p.RowPanel != nil {
			title = "row " + *p.RowPanel.Title
		} else {
			title = *p.Panel.Title
		}
		id := crc32.ChecksumIEEE([]byte(title))%1_000_000 + 1
		if seen[id] {
			return fmt.Errorf("two panels are titled %q", title)
		}
		seen[id] = true
		if p.RowPanel != nil {
			p.RowPanel.Id = id
		} else {
			p.Panel.Id = &id
		}
	}
	return nil
}

// Command licences writes the licences of everything that is compiled into the program: of each module, and of
// packages that have one of their own. It fails if a module has no licence.
//
//	go run ./licences -dir ../.. ./cmd/smshooks >THIRD_PARTY_LICENSES
package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
)

func main() {
	dir := flag.String("dir", ".", "directory of the module")
	flag.Parse()
	if err := run(os.Stdout, *dir, flag.Args()); err != nil {
		fmt.Fprintln(os.Stderr, "licences:", err)
		os.Exit(1)
	}
}

// licence matches the names of files with terms.
var licence = regexp.MustCompile(`(?i)^(licen[cs]e|copying|notice|patents|unlicense)([-.].*)?$`)

// module is a module and the folders of its compiled packages.
type module struct {
	name, root string
	folders    map[string]bool
}

func run(w io.Writer, dir string, packages []string) error {
	modules, err := compiled(dir, packages)
	if err != nil {
		return err
	}
	for _, name := range slices.Sorted(maps.Keys(modules)) {
		if err := write(w, modules[name]); err != nil {
			return err
		}
	}
	return nil
}

// compiled returns the modules of the packages' dependencies on all platforms of a release, and Go's own as "Go".
func compiled(dir string, packages []string) (map[string]*module, error) {
	modules := map[string]*module{}
	for _, arch := range []string{"amd64", "arm64"} {
		list := exec.Command("go", append([]string{"list", "-deps", "-tags", "timetzdata", "-json=Dir,Standard,Module"}, packages...)...)
		list.Dir, list.Stderr = dir, os.Stderr
		list.Env = append(os.Environ(), "CGO_ENABLED=0", "GOOS=linux", "GOARCH="+arch)
		text, err := list.Output()
		if err != nil {
			return nil, fmt.Errorf("go list: %w", err)
		}
		for decoder := json.NewDecoder(bytes.NewReader(text)); ; {
			var p struct {
				Dir      string
				Standard bool
				Module   *struct {
					Path, Version, Dir string
					Main               bool
				}
			}
			if err := decoder.Decode(&p); errors.Is(err, io.EOF) {
				break
			} else if err != nil {
				return nil, fmt.Errorf("go list: %w", err)
			}
			m := &module{folders: map[string]bool{}}
			switch {
			case p.Standard:
				goroot, _, _ := strings.Cut(p.Dir, "/src/")
				m.name, m.root, p.Dir = "Go", goroot, goroot
			case p.Module == nil || p.Module.Main:
				continue
			default:
				m.name, m.root = p.Module.Path+" "+p.Module.Version, p.Module.Dir
			}
			if there := modules[m.name]; there != nil {
				m = there
			}
			modules[m.name] = m
			for folder := p.Dir; strings.HasPrefix(folder, m.root); folder = filepath.Dir(folder) {
				m.folders[folder] = true
			}
		}
	}
	return modules, nil
}

// write copies the files with terms from the module's folders.
func write(w io.Writer, m *module) error {
	found := false
	for _, folder := range slices.Sorted(maps.Keys(m.folders)) {
		entries, err := os.ReadDir(folder)
		if err != nil {
			return err
		}
		for _, e := range entries {
			if e.Type()&fs.ModeType != 0 || !licence.MatchString(e.Name()) || strings.HasSuffix(e.Name(), ".go") {
				continue
			}
			text, err := os.ReadFile(filepath.Join(folder, e.Name()))
			if err != nil {
				return err
			}
			below, err := filepath.Rel(m.root, filepath.Join(folder, e.Name()))
			if err != nil {
				return err
			}
			found = true
			line := strings.Repeat("=", 80)
			if _, err := fmt.Fprintf(w, "%s\n%s: %s\n%s\n\n%s\n\n", line, m.name, below, line, bytes.TrimSpace(text)); err != nil {
				return err
			}
		}
	}
	if !found {
		return fmt.Errorf("%s has no licence in %s", m.name, m.root)
	}
	return nil
}

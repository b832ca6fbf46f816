package docs

import (
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// TestArchitecture checks that each function, type or list that ARCHITECTURE.md names with its file is declared there.
func TestArchitecture(t *testing.T) {
	source := map[string]string{}
	err := filepath.WalkDir(root, func(path string, _ fs.DirEntry, err error) error {
		if err != nil || !strings.HasSuffix(path, ".go") {
			return err
		}
		text, err := os.ReadFile(path)
		source[filepath.ToSlash(path)] = string(text)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	walk := regexp.MustCompile("`([a-z/]+\\.go): ([^`]+)`").FindAllStringSubmatch(read(t, "docs/ARCHITECTURE.md"), -1)
	if len(walk) < 30 {
		t.Errorf("%d places are named, want at least 30", len(walk))
	}
	for _, place := range walk {
		for name := range strings.SplitSeq(place[2], ", ") {
			name = name[strings.LastIndex(name, ".")+1:]
			declared := regexp.MustCompile(`(?m)^(func (\([^)]*\) )?|type )` + name + `\b|^\t` + name + ` += `)
			found := false
			for path, text := range source {
				found = found || strings.HasSuffix(path, "/"+place[1]) && declared.MatchString(text)
			}
			if !found {
				t.Errorf("%s does not declare %s", place[1], name)
			}
		}
	}
}

package config

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"regexp"

	"go.yaml.in/yaml/v3"
)

// fileReader flattens a YAML file into settings and collects what is wrong.
type fileReader struct {
	path     string
	known    map[string]setting
	given    map[string]given
	problems []Problem
}

// readFile returns the settings in the YAML file at path.
func readFile(path string, settings []setting) (map[string]given, []Problem) {
	r := &fileReader{path: path, known: map[string]setting{}, given: map[string]given{}}
	for _, s := range settings {
		r.known[s.name] = s
	}
	raw, err := os.ReadFile(path)
	if err != nil {
		return nil, []Problem{{Setting: "file " + path, Text: "cannot be read: " + err.Error()}}
	}
	root, err := parseYAML(raw)
	if err != nil {
		return nil, []Problem{{Setting: "file " + path, Text: err.Error()}}
	}
	if root != nil {
		r.section("", root)
	}
	return r.given, r.problems
}

// An anchor's name in an error can be a password that began with an asterisk.
var anchorName = regexp.MustCompile(`'.*'`)

// parseYAML returns the top mapping of the only document, nil if it is empty.
func parseYAML(raw []byte) (*yaml.Node, error) {
	dec := yaml.NewDecoder(bytes.NewReader(raw))
	var doc yaml.Node
	if err := dec.Decode(&doc); err != nil {
		if errors.Is(err, io.EOF) {
			return nil, nil
		}
		return nil, errors.New("is not YAML: " + anchorName.ReplaceAllString(err.Error(), "'…'"))
	}
	if err := dec.Decode(&yaml.Node{}); !errors.Is(err, io.EOF) {
		return nil, errors.New("holds more than one YAML document")
	}
	root := doc.Content[0]
	if isNull(root) {
		return nil, nil
	}
	if root.Kind != yaml.MappingNode {
		return nil, errors.New("is not a YAML mapping of settings")
	}
	return root, nil
}

func isNull(n *yaml.Node) bool { return n.Kind == yaml.ScalarNode && n.Tag == "!!null" }

// section reads a mapping whose keys continue the dotted prefix. Only known
// sections are entered, so an alias within itself ends at an unknown key.
func (r *fileReader) section(prefix string, n *yaml.Node) {
	lines := map[string]int{} // of the sections
	for i := 0; i+1 < len(n.Content); i += 2 {
		k, v := n.Content[i], n.Content[i+1]
		if v.Kind == yaml.AliasNode {
			v = v.Alias
		}
		name := prefix + k.Value
		s, known := r.known[name]
		switch {
		case known:
			r.setting(s, k.Line, v)
		case !r.isSection(name):
			r.fail(name, k.Line, "unknown setting")
		case lines[name] != 0:
			r.fail(name, k.Line, twice(lines[name]))
		case v.Kind == yaml.MappingNode:
			lines[name] = k.Line
			r.section(name+".", v)
		case !isNull(v):
			r.fail(name, k.Line, "is a section, not a value"+r.switchOf(name))
		default:
			lines[name] = k.Line
		}
	}
}

func twice(first int) string { return fmt.Sprintf("is set twice, first in line %d", first) }

func (r *fileReader) isSection(name string) bool {
	for known := range r.known {
		if len(known) > len(name) && known[:len(name)+1] == name+"." {
			return true
		}
	}
	return false
}

// switchOf returns a hint to the setting that enables a section, if there is one.
func (r *fileReader) switchOf(section string) string {
	if s, ok := r.known[section+".enabled"]; ok {
		return ": set " + s.name
	}
	return ""
}

// setting reads the value of a known setting.
func (r *fileReader) setting(s setting, line int, v *yaml.Node) {
	if before, isSet := r.given[s.name]; isSet {
		r.fail(s.name, line, twice(before.origin.line))
		return
	}
	texts := []string{}
	switch {
	case isNull(v):
		texts = s.split("")
	case v.Kind == yaml.ScalarNode:
		texts = s.split(v.Value)
	case v.Kind == yaml.SequenceNode && s.list:
		for _, item := range v.Content {
			if item.Kind == yaml.AliasNode {
				item = item.Alias
			}
			if item.Kind != yaml.ScalarNode {
				r.fail(s.name, item.Line, "must be a list of plain values")
				return
			}
			texts = append(texts, item.Value)
		}
	default:
		r.fail(s.name, line, "is "+s.shape()+", not "+shapeOf(v))
		return
	}
	r.given[s.name] = given{texts, origin{"file " + r.path, line}}
}

func (s setting) shape() string {
	if s.list {
		return "a list"
	}
	return "one value"
}

func shapeOf(v *yaml.Node) string {
	if v.Kind == yaml.SequenceNode {
		return "a list"
	}
	return "a mapping"
}

func (r *fileReader) fail(name string, line int, text string) {
	r.problems = append(r.problems, Problem{name, text, origin{"file " + r.path, line}.place()})
}

package config

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"strings"

	"go.yaml.in/yaml/v3"
)

// mask stands for a secret that is set.
const mask = "********"

// WriteYAML writes every setting as one YAML document that Load reads, in the
// order of docs/configuration.md. A secret is ******** when set, else empty.
// A comment on each line says where the value came from: `default`, `file
// x.yaml, line 3`, `env SMSHOOKS_…` or `flag --…`.
func (c *Config) WriteYAML(w io.Writer) error {
	root := &yaml.Node{Kind: yaml.MappingNode}
	for _, s := range table() {
		path := strings.Split(s.name, ".")
		at := root
		for _, section := range path[:len(path)-1] {
			at = child(at, section)
		}
		value := s.node(c)
		value.LineComment = c.origins[s.name].comment()
		at.Content = append(at.Content, &yaml.Node{Kind: yaml.ScalarNode, Value: path[len(path)-1]}, value)
	}
	// Encode into a buffer: the encoder hides the type of its writer's errors.
	var b bytes.Buffer
	enc := yaml.NewEncoder(&b)
	enc.SetIndent(2)
	err := errors.Join(enc.Encode(root), enc.Close())
	if err == nil {
		_, err = w.Write(b.Bytes())
	}
	if err != nil {
		return fmt.Errorf("print settings: %w", err)
	}
	return nil
}

// child returns the mapping of that name at the end of n; a section's settings
// are next to each other.
func child(n *yaml.Node, name string) *yaml.Node {
	if k := len(n.Content); k > 0 && n.Content[k-2].Value == name {
		return n.Content[k-1]
	}
	section := &yaml.Node{Kind: yaml.MappingNode}
	n.Content = append(n.Content, &yaml.Node{Kind: yaml.ScalarNode, Value: name}, section)
	return section
}

func (s setting) node(c *Config) *yaml.Node {
	texts := s.get(c)
	for i, text := range texts {
		if s.secret && text != "" {
			texts[i] = mask
		}
	}
	if s.list {
		list := &yaml.Node{Kind: yaml.SequenceNode, Style: yaml.FlowStyle}
		for _, text := range texts {
			list.Content = append(list.Content, s.scalar(text))
		}
		return list
	}
	return s.scalar(texts[0])
}

// scalar quotes text that YAML would read as another type. Numbers, booleans and
// words of a closed list are not quoted.
func (s setting) scalar(text string) *yaml.Node {
	n := &yaml.Node{}
	n.SetString(text)
	if strings.ContainsAny(text, "\n\r") {
		n.Style = yaml.DoubleQuotedStyle // a block cannot have a comment
	}
	switch s.word {
	case "number", "bytes", "boolean", "word", "ratio":
		if text != "" {
			n.Tag = ""
		}
	}
	return n
}

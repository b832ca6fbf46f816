package config

import (
	"fmt"
	"strings"
)

// Row exposes a setting to the tests.
type Row struct {
	Name, Env, Default, Usage string
	List, Secret              bool
}

// Rows returns the table.
func Rows() []Row {
	var rows []Row
	for _, s := range table() {
		rows = append(rows, Row{s.name, s.env(), s.def, s.usage, s.list, s.secret})
	}
	return rows
}

// Markdown returns the table as in docs/configuration.md, one part per section.
func Markdown() string {
	var b strings.Builder
	section := ""
	for _, s := range table() {
		if name, _, _ := strings.Cut(s.name, "."); name != section {
			section = name
			fmt.Fprintf(&b, "\n### %s\n\n| setting | default | value | environment variable | meaning |\n|---|---|---|---|---|\n", name)
		}
		def := "(empty)"
		if s.def != "" {
			def = "`" + s.def + "`"
		}
		word := s.word
		if s.list {
			word = "list of " + strings.TrimSuffix(s.word, ",...")
		}
		usage := s.usage
		if s.secret {
			usage += " (secret)"
		}
		fmt.Fprintf(&b, "| `%s` | %s | %s | `%s` | %s |\n", s.name, def, word, s.env(), usage)
	}
	return b.String() + "\n"
}

package config

import (
	"fmt"
	"strings"
	"unicode"
)

// Error lists all problems of the settings, one per line. The operator can fix
// them: they are not failures of the program.
type Error struct {
	Problems []Problem
}

// Problem is one wrong setting. Text never holds a secret.
type Problem struct {
	Setting string // dotted name, variable or file
	Text    string
	Origin  string // as Config.Origin, "" if Setting names the source
}

// Error returns a line per problem.
func (e *Error) Error() string {
	lines := make([]string, len(e.Problems))
	for i, p := range e.Problems {
		lines[i] = p.String()
	}
	return strings.Join(lines, "\n")
}

// String returns `setting: what is wrong (from where)`.
func (p Problem) String() string {
	if p.Origin == "" {
		return p.Setting + ": " + p.Text
	}
	return p.Setting + ": " + p.Text + " (from " + p.Origin + ")"
}

// origin is where a value came from; the zero value is the default.
type origin struct {
	source string // "file x.yaml", "environment variable X", "flag --x"
	line   int    // in the file, 0 = unknown
}

func (o origin) String() string {
	if o.source == "" {
		return "default"
	}
	return o.source
}

// place returns the origin with its line.
func (o origin) place() string {
	if o.line == 0 {
		return o.String()
	}
	return fmt.Sprintf("%s, line %d", o.source, o.line)
}

// comment returns the place in one line, for a YAML comment.
func (o origin) comment() string {
	place := strings.Replace(o.place(), "environment variable ", "env ", 1)
	return "# " + strings.Map(func(r rune) rune {
		if !unicode.IsPrint(r) { // in the name of a file
			return '?'
		}
		return r
	}, place)
}

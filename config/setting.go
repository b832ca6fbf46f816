package config

import (
	"errors"
	"slices"
	"strings"
	"unicode/utf8"
)

// setting is a row of the table. A scalar has one text, a list any number.
type setting struct {
	name   string // dotted, lower case
	def    string // a list's items are separated by commas
	usage  string
	word   string // type of a value in the usage text: duration, number, …
	list   bool
	words  []string // all values, if they can be listed
	secret bool

	// set parses texts into the field of c; its error never holds a secret.
	set func(c *Config, texts []string) error
	// get returns the field of c in the form that set parses.
	get func(c *Config) []string
}

// kind parses and prints one sort of value.
type kind[T any] struct {
	word   string
	parse  func(text string) (T, error)
	format func(T) string
	words  []string // all values except the empty one, if they can be listed
}

func one[T any](name string, k kind[T], def string, at func(*Config) *T, usage string) setting {
	return setting{
		name: name, def: def, usage: usage, word: k.word, words: k.words,
		set: func(c *Config, texts []string) error {
			if len(texts) != 1 {
				return errors.New("is one " + k.word + ", not a list")
			}
			v, err := k.parse(texts[0])
			if err != nil {
				return err
			}
			*at(c) = v
			return nil
		},
		get: func(c *Config) []string { return []string{k.format(*at(c))} },
	}
}

// many makes a list setting; check validates the whole list and may be nil.
func many[T any](name string, k kind[T], def string, at func(*Config) *[]T, check func([]T) error,
	usage string) setting {
	return setting{
		name: name, def: def, usage: usage, word: k.word + ",...", list: true, words: k.words,
		set: func(c *Config, texts []string) error {
			vs := make([]T, 0, len(texts))
			for _, text := range texts {
				v, err := k.parse(text)
				if err != nil {
					return err
				}
				vs = append(vs, v)
			}
			if check != nil {
				if err := check(vs); err != nil {
					return err
				}
			}
			*at(c) = vs
			return nil
		},
		get: func(c *Config) []string {
			texts := make([]string, 0, len(*at(c)))
			for _, v := range *at(c) {
				texts = append(texts, k.format(v))
			}
			return texts
		},
	}
}

// hidden marks a setting as a secret.
func hidden(s setting) setting {
	s.secret = true
	set := s.set
	s.set = func(c *Config, texts []string) error {
		if slices.Contains(texts, mask) {
			return errors.New("is the mask that `config print` writes, not the secret itself")
		}
		return set(c, texts)
	}
	return s
}

// read is set for texts of the user. It rejects text that YAML cannot hold: what WriteYAML makes of it would be another
// text when it is read back. WriteYAML masks secrets.
func (s setting) read(c *Config, texts []string) error {
	if !s.secret && slices.ContainsFunc(texts, func(text string) bool { return !utf8.ValidString(text) }) {
		return errors.New("is not valid UTF-8")
	}
	return s.set(c, texts)
}

// texts returns the default in the form that set parses.
func (s setting) texts() []string { return s.split(s.def) }

// split cuts the text of a flag, variable or YAML scalar into texts for set.
func (s setting) split(text string) []string {
	if !s.list {
		return []string{text}
	}
	if strings.TrimSpace(text) == "" {
		return []string{}
	}
	items := strings.Split(text, ",")
	for i, item := range items {
		items[i] = strings.TrimSpace(item)
	}
	return items
}

// env returns the name of the setting's environment variable.
func (s setting) env() string {
	return envPrefix + strings.ToUpper(strings.ReplaceAll(s.name, ".", "_"))
}

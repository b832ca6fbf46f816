package config

import (
	"errors"
	"fmt"
	"strings"

	"github.com/spf13/pflag"
)

// Flags registers one flag per setting, named as the setting is. Their values
// are checked by Load, so that a bad one is reported like any other.
func Flags(fs *pflag.FlagSet) {
	for _, s := range table() {
		f := fs.VarPF(&flagValue{setting: s, text: s.def}, s.name, "", s.usage)
		if s.word == "boolean" {
			f.NoOptDefVal = "true"
		}
	}
}

// FlagError adds to the error of an unknown flag which flag turns that section
// on, if the name is one of a section.
func FlagError(err error) error {
	var unknown *pflag.NotExistError
	if !errors.As(err, &unknown) {
		return err
	}
	for _, s := range table() {
		if s.name == unknown.GetSpecifiedName()+".enabled" {
			return fmt.Errorf("%w: it is a section, set --%s", err, s.name)
		}
	}
	return err
}

// Values returns the values of each setting that has a closed list of them, by
// dotted name; for completion.
func Values() map[string][]string {
	values := map[string][]string{}
	for _, s := range table() {
		if len(s.words) > 0 {
			values[s.name] = s.words
		}
	}
	return values
}

// flagValue keeps a flag's text. A list's flag may be given several times.
type flagValue struct {
	setting setting
	text    string
	given   bool
}

// String returns the text.
func (v *flagValue) String() string { return v.text }

// Set takes any text; Load judges it.
func (v *flagValue) Set(text string) error {
	if v.setting.list && v.given && strings.TrimSpace(v.text) != "" {
		text = v.text + "," + text
	}
	v.text, v.given = text, true
	return nil
}

// Type names the value in the usage text. No word of the table is one of the
// type names for which viper would convert the text.
func (v *flagValue) Type() string { return v.setting.word }

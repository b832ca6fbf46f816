package config

import (
	"errors"
	"fmt"
	"strings"

	"github.com/spf13/pflag"
)

// Flags registers one flag per setting, under the setting's name. Load checks
// their values, so that it reports all problems together.
func Flags(fs *pflag.FlagSet) {
	for _, s := range table() {
		f := fs.VarPF(&flagValue{setting: s, text: s.def}, s.name, "", s.usage)
		if s.word == "boolean" {
			f.NoOptDefVal = "true"
		}
	}
}

// FlagError extends the error of an unknown flag that has the name of a section:
// it adds the flag that enables the section.
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

// Values returns the possible values of each setting with a closed list of them,
// by dotted name. Shell completion uses them.
func Values() map[string][]string {
	values := map[string][]string{}
	for _, s := range table() {
		if len(s.words) > 0 {
			values[s.name] = s.words
		}
	}
	return values
}

// flagValue stores a flag's text. A list's flag may be given several times.
type flagValue struct {
	setting setting
	text    string
	given   bool
}

// String returns the text.
func (v *flagValue) String() string { return v.text }

// Set accepts any text; Load validates it.
func (v *flagValue) Set(text string) error {
	if v.setting.list && v.given && strings.TrimSpace(v.text) != "" {
		text = v.text + "," + text
	}
	v.text, v.given = text, true
	return nil
}

// Type returns the word for the value in the usage text. None of the table's words
// is a type name for which viper would convert the text.
func (v *flagValue) Type() string { return v.setting.word }

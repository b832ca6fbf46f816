package config

import (
	"slices"
	"strings"

	"github.com/spf13/pflag"
	"github.com/spf13/viper"
)

const (
	envPrefix  = "SMSHOOKS_"
	testPrefix = "SMSHOOKS_TEST_"
)

// given is a setting's value and where it came from.
type given struct {
	texts  []string
	origin origin
}

// Load returns the settings: the defaults, changed by the YAML file (none if
// file is empty), by the SMSHOOKS_ variables of environ (as os.Environ gives
// them) and by the flags of fs that were set (fs may be nil). The error, if
// any, is an *Error with all problems.
func Load(file string, environ []string, fs *pflag.FlagSet) (*Config, error) {
	settings := table()
	// Dotted names are plain keys: this delimiter never occurs in one.
	v := viper.NewWithOptions(viper.KeyDelimiter("\x00"))
	var problems []Problem
	for _, s := range settings {
		v.SetDefault(s.name, given{texts: s.texts()})
	}
	if file != "" {
		values, wrong := readFile(file, settings)
		problems = append(problems, wrong...)
		merge(v, values)
	}
	values, wrong := readEnv(environ, settings)
	problems = append(problems, wrong...)
	merge(v, values)
	if fs != nil {
		bindFlags(v, fs, settings)
	}

	c := Defaults()
	c.origins = map[string]origin{}
	if file != "" {
		c.flags = append(c.flags, Quote("--config="+file))
	}
	bad := map[string]bool{}
	for _, s := range settings {
		from := resolve(v, s)
		c.origins[s.name] = from.origin
		if from.origin.source == flagOf(s) && !s.secret {
			c.flags = append(c.flags, Quote("--"+s.name+"="+strings.Join(from.texts, ",")))
		}
		if err := s.read(c, from.texts); err != nil {
			bad[s.name] = true
			problems = append(problems, Problem{s.name, err.Error(), from.origin.place()})
		}
	}
	problems = append(problems, validate(c, bad)...)
	if len(problems) > 0 {
		return nil, &Error{problems}
	}
	return c, nil
}

// merge overrides what v holds from files and variables.
func merge(v *viper.Viper, values map[string]given) {
	layer := make(map[string]any, len(values))
	for name, value := range values {
		layer[name] = value
	}
	// MergeConfigMap never returns an error.
	_ = v.MergeConfigMap(layer)
}

// bindFlags makes flags that were set override everything else.
func bindFlags(v *viper.Viper, fs *pflag.FlagSet, settings []setting) {
	for _, s := range settings {
		if f := fs.Lookup(s.name); f != nil {
			// BindPFlag fails only for a nil flag.
			_ = v.BindPFlag(s.name, f)
		}
	}
}

// resolve returns the value to use. viper returns a flag's value as a string.
func resolve(v *viper.Viper, s setting) given {
	switch value := v.Get(s.name).(type) {
	case given:
		return value
	case string:
		return given{s.split(value), origin{source: flagOf(s)}}
	default:
		return given{texts: s.texts()}
	}
}

func flagOf(s setting) string { return "flag --" + s.name }

// Quote returns text as one word for a shell.
func Quote(text string) string {
	if strings.Trim(text, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_=.,:/@%+") == "" {
		return text
	}
	return "'" + strings.ReplaceAll(text, "'", `'\''`) + "'"
}

// readEnv returns the settings among the variables NAME=value of environ.
func readEnv(environ []string, settings []setting) (map[string]given, []Problem) {
	known := map[string]setting{}
	for _, s := range settings {
		known[s.env()] = s
	}
	values := map[string]given{}
	var problems []Problem
	for _, variable := range environ {
		name, value, _ := strings.Cut(variable, "=")
		if !strings.HasPrefix(name, envPrefix) || strings.HasPrefix(name, testPrefix) {
			continue
		}
		from := origin{source: "environment variable " + name}
		s, ok := known[name]
		if on, isSection := known[name+"_ENABLED"]; !ok && isSection {
			problems = append(problems, Problem{name, "names a section, not a setting: set " + on.env() + " (" + on.name + ")",
				from.place()})
			continue
		}
		if !ok {
			problems = append(problems, Problem{name, "unknown setting", from.place()})
			continue
		}
		values[s.name] = given{s.split(value), from}
	}
	slices.SortFunc(problems, func(a, b Problem) int { return strings.Compare(a.Setting, b.Setting) })
	return values, problems
}

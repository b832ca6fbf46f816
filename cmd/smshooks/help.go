package main

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/smshooks/smshooks/config"
)

// maxSuggestions is the largest number of names that an error suggests.
const maxSuggestions = 3

func init() {
	cobra.AddTemplateFunc("ownFlags", ownFlags)
	cobra.AddTemplateFunc("settingFlags", settingFlags)
}

// usageTemplate returns cobra's template with the command's own flags first, and the settings by section after them.
func usageTemplate(cmd *cobra.Command) string {
	head, rest, _ := strings.Cut(cmd.UsageTemplate(), "{{if .HasAvailableLocalFlags}}")
	_, tail, _ := strings.Cut(rest, "{{if .HasHelpSubCommands}}")
	return head + "{{with ownFlags .}}\n\nFlags:\n{{.}}{{end}}{{settingFlags .}}{{if .HasHelpSubCommands}}" + tail
}

// isSetting reports whether a flag is a setting: their names are dotted.
func isSetting(f *pflag.Flag) bool { return strings.Contains(f.Name, ".") || f.Name == "config" }

// ownFlags describes the flags of cmd that are not settings.
func ownFlags(cmd *cobra.Command) string {
	own := pflag.NewFlagSet("", pflag.ContinueOnError)
	cmd.LocalFlags().VisitAll(func(f *pflag.Flag) {
		if !isSetting(f) {
			own.AddFlag(f)
		}
	})
	return strings.TrimRight(own.FlagUsages(), "\n")
}

// settingFlags describes the settings that cmd reads, by section.
func settingFlags(cmd *cobra.Command) string {
	var sections []string
	flags := map[string]*pflag.FlagSet{}
	add := func(f *pflag.Flag) {
		if !isSetting(f) || f.Hidden {
			return
		}
		section, _, dotted := strings.Cut(f.Name, ".")
		if !dotted {
			section = ""
		}
		if flags[section] == nil {
			sections, flags[section] = append(sections, section), pflag.NewFlagSet("", pflag.ContinueOnError)
		}
		flags[section].AddFlag(f)
	}
	cmd.LocalFlags().VisitAll(add)
	cmd.InheritedFlags().VisitAll(add)
	slices.Sort(sections)
	var text strings.Builder
	for _, section := range sections {
		heading := "Settings"
		if section != "" {
			heading += ", " + section
		}
		fmt.Fprintf(&text, "\n\n%s:\n%s", heading, strings.TrimRight(flags[section].FlagUsages(), "\n"))
	}
	return text.String()
}

// valueTypes describes the values of each type of flag.
var valueTypes = map[string]string{
	"bool": "true or false", "duration": "a duration (try 30s, 1h30m)", "float64": "a number",
	"int": "a whole number up to 9223372036854775807", "int64": "a whole number up to 9223372036854775807",
}

// flagError suggests similar flags for an unknown one, and names the type that a bad value should have.
func flagError(cmd *cobra.Command, err error) error {
	var invalid *pflag.InvalidValueError
	if errors.As(err, &invalid) {
		if want := valueTypes[invalid.GetFlag().Value.Type()]; want != "" {
			return usagef("--%s: %q is not %s", invalid.GetFlag().Name, invalid.GetValue(), want)
		}
	}
	var unknown *pflag.NotExistError
	if !errors.As(err, &unknown) {
		return usageError{config.FlagError(err)}
	}
	var names []string
	add := func(f *pflag.Flag) { names = append(names, f.Name) }
	cmd.LocalFlags().VisitAll(add)
	cmd.InheritedFlags().VisitAll(add)
	if explained := config.FlagError(err); explained != err { //nolint:errorlint // whether it was changed
		return usageError{explained}
	}
	word := unknown.GetSpecifiedName()
	similar := near(word, names, 2)
	if len(similar) == 0 { // perhaps a setting without its section
		parts := map[string][]string{}
		for _, name := range names {
			part := name[strings.LastIndexByte(name, '.')+1:]
			parts[part] = append(parts[part], name)
		}
		for _, part := range near(word, slices.Collect(maps.Keys(parts)), 1) {
			similar = append(similar, parts[part]...)
		}
	}
	return usagef("%w%s", err, didYouMean("--", similar))
}

// refuseUnknown makes an unknown argument of the commands that cobra adds a usage error. Cobra prints the help instead.
func refuseUnknown(root *cobra.Command) {
	root.InitDefaultCompletionCmd()
	root.InitDefaultHelpCmd()
	for _, cmd := range root.Commands() {
		switch cmd.Name() {
		case "completion":
			cmd.Args, cmd.RunE = cobra.ArbitraryArgs, needSubcommand
		case "help":
			cmd.Run, cmd.RunE = nil, showHelp
		}
	}
}

// needSubcommand is for commands that do nothing by themselves.
func needSubcommand(cmd *cobra.Command, args []string) error {
	if len(args) > 0 {
		return unknownCommand(cmd, args[0])
	}
	return usagef("missing subcommand; see %s --help", cmd.CommandPath())
}

// showHelp shows the help of the command that args name.
func showHelp(cmd *cobra.Command, args []string) error {
	about, rest, err := cmd.Root().Find(args)
	if err != nil {
		return usageError{err}
	}
	if len(rest) > 0 {
		return unknownCommand(about, rest[0])
	}
	about.InitDefaultHelpFlag()
	return about.Help()
}

func unknownCommand(cmd *cobra.Command, name string) error {
	var names []string
	for _, child := range cmd.Commands() {
		if child.IsAvailableCommand() {
			names = append(names, child.Name())
		}
	}
	similar := didYouMean(cmd.CommandPath()+" ", near(name, names, 2))
	return usagef("unknown command %q%s; see %s --help", name, similar, cmd.CommandPath())
}

// near returns the names that begin with word or differ from it by at most distance letters: cobra's rule for commands.
func near(word string, names []string, distance int) []string {
	choice := &cobra.Command{SuggestionsMinimumDistance: distance}
	for _, name := range names {
		choice.AddCommand(&cobra.Command{Use: name, Run: func(*cobra.Command, []string) {}})
	}
	return choice.SuggestionsFor(word)
}

// didYouMean suggests names, each after prefix. It returns "" for none and for too many.
func didYouMean(prefix string, names []string) string {
	if len(names) == 0 || len(names) > maxSuggestions {
		return ""
	}
	slices.Sort(names)
	return " (did you mean " + prefix + strings.Join(names, " or "+prefix) + "?)"
}

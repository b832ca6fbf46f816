package main

import (
	"bytes"
	"strings"
	"testing"
)

func TestHelpShowsOwnFlagsFirst(t *testing.T) {
	var out bytes.Buffer
	if code := run(t.Context(), []string{"serve", "--help"}, &out, &out); code != exitDone {
		t.Fatalf("exit code %d", code)
	}
	_, text, _ := strings.Cut(out.String(), "\nUsage:\n")
	at := -1
	for _, part := range []string{"\nFlags:\n", "      --embedded ", "      --roles ", "\nSettings:\n", "      --config ", "\nSettings, api:\n", "--api.addr ",
		"\nSettings, kafka:\n", "--kafka.brokers ", "\nSettings, topics:\n"} {
		i := strings.Index(text, part)
		if i <= at {
			t.Errorf("%q is missing or out of place", part)
		}
		at = i
	}
	if strings.Contains(text, "Global Flags") || strings.Count(text, "      --config ") != 1 {
		t.Errorf("flags are listed twice:\n%s", text)
	}
}

func TestSuggestions(t *testing.T) {
	for line, want := range map[string]string{
		"servee":                     `unknown command "servee" (did you mean smshooks serve?); see smshooks --help`,
		"topics ensur":               `unknown command "ensur" (did you mean smshooks topics ensure?); see smshooks topics --help`,
		"nothing":                    `unknown command "nothing"; see smshooks --help`,
		"help topic":                 `unknown command "topic" (did you mean smshooks topics?); see smshooks --help`,
		"help topics chek":           `unknown command "chek" (did you mean smshooks topics check?); see smshooks topics --help`,
		"completion fsh":             `unknown command "fsh" (did you mean smshooks completion bash or smshooks completion fish or smshooks completion zsh?); see smshooks completion --help`,
		"completion":                 `missing subcommand; see smshooks completion --help`,
		"serve --kafka.broker=a":     `unknown flag: --kafka.broker (did you mean --kafka.brokers?)`,
		"serve --rols=api":           `unknown flag: --rols (did you mean --roles?)`,
		"serve --nothing":            `unknown flag: --nothing`,
		"serve --brokers=a":          `unknown flag: --brokers (did you mean --kafka.brokers?)`,
		"serve --group=a":            `unknown flag: --group (did you mean --kafka.group or --kafka.group_protocol?)`,
		"serve --schedul=1s":         `unknown flag: --schedul (did you mean --retry.schedule?)`,
		"serve --enabled":            `unknown flag: --enabled (did you mean --kafka.tls.enabled or --redis.tls.enabled?)`,
		"bench":                      `unknown command "bench"; see smshooks --help`,
		"keys create --user x":       `--user: "x" is not a whole number up to 9223372036854775807`,
		"explain --json=maybe":       `--json: "maybe" is not true or false`,
		"demo --for 30":              `--for: "30" is not a duration (try 30s, 1h30m)`,
		"send --user 1 --rate fast":  `--rate: "fast" is not a number`,
		"topics check --kafka.tls=1": `unknown flag: --kafka.tls: it is a section, set --kafka.tls.enabled`,
	} {
		var out bytes.Buffer
		if code := run(t.Context(), strings.Fields(line), &out, &out); code != exitUsage || out.String() != "smshooks: "+want+"\n" {
			t.Errorf("%s: exit code %d, %s", line, code, out.String())
		}
	}
}

func TestVersionFlag(t *testing.T) {
	var flag, command bytes.Buffer
	run(t.Context(), []string{"--version"}, &flag, &flag)
	run(t.Context(), []string{"version"}, &command, &command)
	if flag.String() != command.String() || !strings.HasPrefix(flag.String(), "smshooks ") {
		t.Errorf("--version prints %q, version %q", flag.String(), command.String())
	}
}

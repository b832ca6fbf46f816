package main

import (
	"bytes"
	"regexp"
	"slices"
	"strings"
	"testing"

	"go.yaml.in/yaml/v3"
)

func acls(t *testing.T, args ...string) string {
	t.Helper()
	var out bytes.Buffer
	if code := run(t.Context(), append([]string{"topics", "acls"}, args...), &out, &out); code != exitDone {
		t.Fatalf("exit code %d: %s", code, out.String())
	}
	return out.String()
}

func TestKafkaACLs(t *testing.T) {
	text := acls(t, "--principal", "User:CN=hooks,O=an agency", "--kafka.group=g", "--kafka.brokers=a:9092,b:9092", "--topics.dlr=receipts")
	const line = "kafka-acls.sh --bootstrap-server a:9092,b:9092 --add --allow-principal 'User:CN=hooks,O=an agency' --operation "
	for _, want := range []string{
		"# serve\n", "# topics ensure\n", "# keys\n", "# deadletter\n",
		line + "Read --operation DescribeConfigs --topic receipts\n",
		line + "Read --operation Write --operation DescribeConfigs --resource-pattern-type prefixed --topic receipts-retry-\n",
		line + "Read --group g\n",
		line + "Write --resource-pattern-type prefixed --transactional-id g-release-\n",
	} {
		if !strings.Contains(text, want) {
			t.Errorf("%q is missing in\n%s", want, text)
		}
	}
}

func TestStrimziUser(t *testing.T) {
	var user struct {
		APIVersion string `yaml:"apiVersion"`
		Kind       string
		Metadata   struct {
			Name   string
			Labels map[string]string
		}
		Spec struct {
			Authorization struct {
				Type string
				ACLs []struct {
					Resource   struct{ Type, Name, PatternType string }
					Operations []string
				} `yaml:"acls"`
			}
		}
	}
	text := acls(t, "--principal=User:hooks", "--format=strimzi")
	if err := yaml.Unmarshal([]byte(strings.ReplaceAll(text, "patternType", "patterntype")), &user); err != nil {
		t.Fatal(err)
	}
	rules := user.Spec.Authorization.ACLs
	if user.Kind != "KafkaUser" || user.Metadata.Name != "hooks" || user.Spec.Authorization.Type != "simple" ||
		user.Metadata.Labels["strimzi.io/cluster"] != "kafka" {
		t.Errorf("got %+v", user)
	}
	if n := strings.Count(acls(t, "--principal=User:hooks"), "kafka-acls.sh"); len(rules) != n {
		t.Errorf("%d rules, %d kafka-acls.sh commands", len(rules), n)
	}
	if r := rules[4]; r.Resource.Name != "sms-dlr-retry-" || r.Resource.PatternType != "prefix" || !slices.Equal(r.Operations, []string{"Read", "Write", "DescribeConfigs"}) {
		t.Errorf("rule for delay topics: %+v", r)
	}
}

// TestStrimziNames checks the names of the user and of the cluster.
func TestStrimziNames(t *testing.T) {
	text := acls(t, "--principal=User:CN=hooks.eu", "--format=strimzi", "--cluster=events")
	if !strings.Contains(text, "  name: hooks.eu\n") || !strings.Contains(text, "    strimzi.io/cluster: events\n") {
		t.Errorf("no user hooks.eu of the cluster events:\n%s", text)
	}
	for _, name := range []string{"CN=", "Hooks", "CN=hooks,O=agency", "a_b", "-a"} {
		var out bytes.Buffer
		if code := run(t.Context(), []string{"topics", "acls", "--format=strimzi", "--principal=User:" + name}, &out, &out); code != exitUsage ||
			!strings.Contains(out.String(), "--principal: ") {
			t.Errorf("%q: exit code %d, %s", name, code, out.String())
		}
	}
}

// TestACLsOfCommands checks that --command limits the rights to those of the commands, and that the default is all.
func TestACLsOfCommands(t *testing.T) {
	commands := regexp.MustCompile(`(?m)^ *# (.*)$`)
	names := func(args ...string) (names []string) {
		for _, m := range commands.FindAllStringSubmatch(acls(t, append(args, "--principal=User:hooks")...), -1) {
			names = append(names, m[1])
		}
		return names
	}
	for _, format := range []string{kafkaACLs, strimzi} {
		if got := names("--format=" + format); len(got) != 9 || got[0] != "serve" {
			t.Errorf("%s: all commands are %q", format, got)
		}
		if got, want := names("--format="+format, "--command=topics check", "--command", "serve"), []string{"serve", "topics check"}; !slices.Equal(got, want) {
			t.Errorf("%s: got %q, want %q", format, got, want)
		}
		all := acls(t, "--principal=User:hooks", "--format="+format)
		serve := acls(t, "--principal=User:hooks", "--format="+format, "--command=serve")
		if strings.Contains(serve, "AlterConfigs") || !strings.Contains(all, "AlterConfigs") {
			t.Errorf("%s: serve may change topics:\n%s", format, serve)
		}
	}
}

func TestACLsUsage(t *testing.T) {
	for _, args := range [][]string{{}, {"--principal=smshooks"}, {"--principal=User:"}, {"--principal=User:x", "--format=json"}, {"--principal=User:x", "--command=topics"}, {"--principal=User:x", "--command="}} {
		var out bytes.Buffer
		if code := run(t.Context(), append([]string{"topics", "acls"}, args...), &out, &out); code != exitUsage || !strings.Contains(out.String(), "--") {
			t.Errorf("%q: exit code %d, %s", args, code, out.String())
		}
	}
}

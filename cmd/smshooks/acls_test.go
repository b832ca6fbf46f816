package main

import (
	"bytes"
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
		Metadata   struct{ Name string }
		Spec       struct {
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
	if user.Kind != "KafkaUser" || user.Metadata.Name != "hooks" || user.Spec.Authorization.Type != "simple" {
		t.Errorf("got %+v", user)
	}
	if n := strings.Count(acls(t, "--principal=User:hooks"), "kafka-acls.sh"); len(rules) != n {
		t.Errorf("%d rules, %d kafka-acls.sh commands", len(rules), n)
	}
	if r := rules[4]; r.Resource.Name != "sms-dlr-retry-" || r.Resource.PatternType != "prefix" || !slices.Equal(r.Operations, []string{"Read", "Write", "DescribeConfigs"}) {
		t.Errorf("rule for delay topics: %+v", r)
	}
}

func TestACLsUsage(t *testing.T) {
	for _, args := range [][]string{{}, {"--principal=smshooks"}, {"--principal=User:"}, {"--principal=User:x", "--format=json"}} {
		var out bytes.Buffer
		if code := run(t.Context(), append([]string{"topics", "acls"}, args...), &out, &out); code != exitUsage || !strings.Contains(out.String(), "--") {
			t.Errorf("%q: exit code %d, %s", args, code, out.String())
		}
	}
}

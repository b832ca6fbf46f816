package main

import (
	"bytes"
	"fmt"
	"io"
	"regexp"
	"slices"
	"strings"

	"github.com/spf13/cobra"
	"go.yaml.in/yaml/v3"

	"github.com/smshooks/smshooks/config"
	"github.com/smshooks/smshooks/internal/topics"
)

// The values of the --format flag of topics acls.
const (
	kafkaACLs = "kafka-acls"
	strimzi   = "strimzi"
)

// userName matches the names that Kubernetes accepts for a KafkaUser.
var userName = regexp.MustCompile(`^[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*$`)

func aclsCommand() *cobra.Command {
	var (
		principal, format, cluster string
		only                       []string
	)
	cmd := &cobra.Command{
		Use: "acls --principal User:NAME", Short: "Print the least rights of each command as ACLs", Args: arguments(0),
		Long: "Print the least rights that each command needs, for the topics and the group of the settings.\n" +
			"The command does not connect to Kafka. Rules for delay topics use prefixes, so a new delay needs no new rights.\n" +
			"A KafkaUser has the rights of all printed commands: name those that the user runs with --command.",
		Example: "  smshooks topics acls --principal User:smshooks\n" +
			"  smshooks topics acls --principal User:smshooks --command serve --format strimzi --cluster events",
		RunE: func(cmd *cobra.Command, _ []string) error {
			if kind, name, ok := strings.Cut(principal, ":"); !ok || kind == "" || name == "" {
				return usagef("--principal: must be a principal such as User:smshooks")
			}
			if err := oneOf("format", format, []string{kafkaACLs, strimzi}); err != nil {
				return err
			}
			cfg, err := settings(cmd)
			if err != nil {
				return err
			}
			rights := cfg.TopicPlan().Rights(cfg.Kafka.Group)
			known := commandNames(rights)
			for _, command := range only {
				if !slices.Contains(known, command) {
					return usagef("--command: %q is not one of %s", command, strings.Join(known, ", "))
				}
			}
			if len(only) > 0 {
				rights = slices.DeleteFunc(rights, func(c topics.CommandRights) bool { return !slices.Contains(only, c.Command) })
			}
			if format == strimzi {
				_, user, _ := strings.Cut(principal, ":")
				// Strimzi's user of a client certificate is named by the CN.
				if user = strings.TrimPrefix(user, "CN="); !userName.MatchString(user) {
					return usagef("--principal: a KafkaUser cannot be named %q: Kubernetes allows a-z, 0-9, - and .", user)
				}
				return ignoreClosedPipe(writeStrimzi(cmd.OutOrStdout(), user, cluster, rights))
			}
			return ignoreClosedPipe(writeKafkaACLs(cmd.OutOrStdout(), principal, cfg.Kafka.Brokers, rights))
		},
	}
	cmd.Flags().StringVar(&principal, "principal", "", "principal that gets the rights, such as User:smshooks")
	cmd.Flags().StringVar(&format, "format", kafkaACLs, "kafka-acls for kafka-acls.sh commands, strimzi for a KafkaUser")
	cmd.Flags().StringArrayVar(&only, "command", nil,
		"print the rights of this command only, such as serve or \"topics ensure\"; may be given several times")
	cmd.Flags().StringVar(&cluster, "cluster", "kafka", "name of the Kafka resource that the KafkaUser belongs to")
	complete(cmd, "format", kafkaACLs, strimzi)
	complete(cmd, "command", commandNames(config.Defaults().TopicPlan().Rights(""))...)
	return cmd
}

// commandNames returns the names of commands.
func commandNames(commands []topics.CommandRights) (names []string) {
	for _, c := range commands {
		names = append(names, c.Command)
	}
	return names
}

// writeKafkaACLs writes a kafka-acls.sh command for each right.
func writeKafkaACLs(w io.Writer, principal string, brokers []string, commands []topics.CommandRights) error {
	var text strings.Builder
	for i, c := range commands {
		if i > 0 {
			text.WriteByte('\n')
		}
		fmt.Fprintf(&text, "# %s\n", c.Command)
		for _, r := range c.Rights {
			fmt.Fprintf(&text, "kafka-acls.sh --bootstrap-server %s --add --allow-principal %s",
				config.Quote(strings.Join(brokers, ",")), config.Quote(principal))
			for _, operation := range r.Operations {
				text.WriteString(" --operation " + operation)
			}
			if r.Prefixed {
				text.WriteString(" --resource-pattern-type prefixed")
			}
			fmt.Fprintf(&text, " --%s %s\n", map[string]string{"topic": "topic", "group": "group",
				"transactionalId": "transactional-id"}[r.Resource], config.Quote(r.Name))
		}
	}
	_, err := io.WriteString(w, text.String())
	return err
}

// writeStrimzi writes a KafkaUser of a Kafka cluster, with the rules in the order of the commands that need them.
func writeStrimzi(w io.Writer, user, cluster string, commands []topics.CommandRights) error {
	acls := &yaml.Node{Kind: yaml.SequenceNode}
	for _, c := range commands {
		for i, r := range c.Rights {
			pattern := "literal"
			if r.Prefixed {
				pattern = "prefix"
			}
			var rule yaml.Node
			err := rule.Encode(struct {
				Resource   strimziResource `yaml:"resource"`
				Operations []string        `yaml:"operations,flow"`
			}{strimziResource{r.Resource, r.Name, pattern}, r.Operations})
			if err != nil {
				return fmt.Errorf("write a KafkaUser: %w", err)
			}
			if i == 0 {
				rule.HeadComment = c.Command
			}
			acls.Content = append(acls.Content, &rule)
		}
	}
	var b bytes.Buffer // the encoder hides the cause of a failed write
	encoder := yaml.NewEncoder(&b)
	encoder.SetIndent(2)
	err := encoder.Encode(struct {
		APIVersion string         `yaml:"apiVersion"`
		Kind       string         `yaml:"kind"`
		Metadata   map[string]any `yaml:"metadata"`
		Spec       any            `yaml:"spec"`
	}{"kafka.strimzi.io/v1", "KafkaUser", map[string]any{
		"name": user, "labels": map[string]string{"strimzi.io/cluster": cluster}, // without it Strimzi ignores the user
	}, map[string]any{
		"authorization": map[string]any{"type": "simple", "acls": acls},
	}})
	if err == nil {
		_, err = w.Write(b.Bytes())
	}
	return err
}

// strimziResource names the resource of a rule of a KafkaUser.
type strimziResource struct {
	Type        string `yaml:"type"`
	Name        string `yaml:"name"`
	PatternType string `yaml:"patternType"`
}

package topics

import (
	"slices"
	"strings"
)

// Right is what a Kafka user may do with the resources of one name, or of all names with one prefix.
type Right struct {
	Resource   string // topic, group or transactionalId
	Name       string
	Prefixed   bool     // Name is a prefix of names
	Operations []string // in the spelling of Kafka's tools: Read, DescribeConfigs
}

// CommandRights are the least rights that a command needs.
type CommandRights struct {
	Command string // serve, topics ensure, …
	Rights  []Right
}

// TransactionPrefix returns the prefix of a consumer group's transactional ids.
func TransactionPrefix(group string) string { return group + "-release-" }

// Rights returns the least rights of each command for the topics of the plan and a consumer group. Delay topics are
// given by prefix, so that a changed delay needs no new rights.
func (p *Plan) Rights(group string) []CommandRights {
	sources := p.Sources()
	on := func(operations []string, topics ...string) (rights []Right) {
		for _, topic := range topics {
			rights = append(rights, Right{Resource: "topic", Name: topic, Operations: operations})
		}
		return rights
	}
	delays := func(classes []Class, operations ...string) (rights []Right) {
		for _, source := range sources {
			for _, class := range classes {
				rights = append(rights, Right{"topic", source + "-" + class.String() + "-", true, operations})
			}
		}
		return rights
	}
	var (
		delayed  = []Class{Retry, Overflow, Paused}
		read     = []string{"Read"}
		write    = []string{"Write"}
		both     = []string{"Read", "Write"}
		check    = []string{"Describe", "DescribeConfigs"}
		create   = []string{"Create", "Describe", "DescribeConfigs"}
		alter    = []string{"Create", "Describe", "AlterConfigs"} // which includes DescribeConfigs
		ensure   = []string{"Create", "Alter", "AlterConfigs"}    // Alter includes Describe
		all      = slices.Concat(sources[:], []string{p.Config, p.Keys, p.DeadLetter, p.Events, p.Releases})
		checked  = func(operations []string) []string { return append(slices.Clone(operations), "DescribeConfigs") }
		member   = Right{Resource: "group", Name: group, Operations: read}
		observer = Right{Resource: "group", Name: group, Operations: []string{"Describe"}}
	)
	return []CommandRights{
		{"serve", slices.Concat(
			on(checked(read), sources[:]...), delays(delayed, checked(both)...), on(checked(read), p.Keys),
			on(checked(both), p.Config, p.DeadLetter, p.Releases), on(checked(write), p.Events),
			[]Right{member, {"transactionalId", TransactionPrefix(group), true, write}})},
		{"topics ensure", slices.Concat(on(create, sources[:]...), on(create, p.Config, p.Keys, p.Events),
			on(alter, p.DeadLetter, p.Releases), delays(delayed, ensure...))},
		{"topics check", slices.Concat(on(check, all...), delays(delayed, check...), []Right{observer})},
		{"keys", on(both, p.Keys)},
		{"deadletter", slices.Concat(on(read, p.DeadLetter), delays([]Class{Overflow}, write...))},
		{"secrets", on(both, p.Config)},
		{"send", on(write, sources[:]...)},
		{"explain", slices.Concat(
			on(read, sources[:]...), on(read, p.DeadLetter), delays(delayed, read...), []Right{observer})},
		{"retry release", slices.Concat(
			on(both, p.Releases), on(read, p.Config), delays(delayed, read...), []Right{observer})},
	}
}

// RightsOf returns the rights that a command needs, such as "keys create".
func (p *Plan) RightsOf(command, group string) []Right {
	for _, c := range p.Rights(group) {
		if command == c.Command || strings.HasPrefix(command, c.Command+" ") {
			return c.Rights
		}
	}
	return nil
}

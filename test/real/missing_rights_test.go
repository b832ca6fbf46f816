package real_test

import (
	"encoding/base64"
	"fmt"
	"net/http"
	"strconv"
	"strings"
	"testing"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/smshooks/smshooks/test/real/harness"
)

// missing is a user with all rights for a command except one.
type missing struct {
	user, command, group string
	rule                 rule
	operation            kadm.ACLOperation
}

func (m missing) String() string {
	return fmt.Sprintf("%s without %v of %s %s", m.command, m.operation, strings.TrimLeft(m.rule.resource, "-"), m.rule.name)
}

// namedBy reports whether a line of text names the resource and the operation.
func (m missing) namedBy(text string) bool {
	for line := range strings.Lines(text) {
		if strings.Contains(line, m.rule.name) && strings.Contains(line, aclName(m.operation)) {
			return true
		}
	}
	return false
}

// aclName returns an operation in the spelling of Kafka's tools, such as DescribeConfigs.
func aclName(op kadm.ACLOperation) string {
	var name strings.Builder
	for word := range strings.SplitSeq(op.String(), "_") {
		name.WriteString(word[:1] + strings.ToLower(word[1:]))
	}
	return name.String()
}

// rightsLacking returns a user without it for each printed right of a command. It leaves out topics of other kinds than
// delivery receipts: the program treats all kinds alike. Each user has his own group.
func rightsLacking(e *env, rules map[string][]rule) (all []missing) {
	for command, granted := range rules {
		for _, r := range granted {
			if strings.HasPrefix(r.name, e.topics.Click) || strings.HasPrefix(r.name, e.topics.Inbound) ||
				strings.HasPrefix(r.name, e.topics.Revocation) {
				continue
			}
			for _, op := range r.operations {
				user := "u" + strconv.Itoa(len(all))
				m := missing{user: user, command: command, group: user + "-" + e.topics.Group, rule: r, operation: op}
				m.rule.name = strings.Replace(r.name, e.topics.Group, m.group, 1)
				if r.resource == "--topic" {
					m.rule.name = r.name
				}
				all = append(all, m)
			}
		}
	}
	return all
}

// acls returns the user's rights.
func (m missing) acls(e *env, granted []rule) (acls []kmsg.CreateACLsRequestCreation) {
	for _, r := range granted {
		acl := kmsg.NewCreateACLsRequestCreation()
		acl.Principal, acl.Host, acl.PermissionType = "User:"+m.user, "*", kmsg.ACLPermissionTypeAllow
		acl.ResourceName, acl.ResourcePatternType = r.name, kmsg.ACLResourcePatternTypeLiteral
		if r.prefixed {
			acl.ResourcePatternType = kmsg.ACLResourcePatternTypePrefixed
		}
		switch r.resource {
		case "--topic":
			acl.ResourceType = kmsg.ACLResourceTypeTopic
		case "--group":
			acl.ResourceType, acl.ResourceName = kmsg.ACLResourceTypeGroup, m.group
		default:
			acl.ResourceType = kmsg.ACLResourceTypeTransactionalId
			acl.ResourceName = strings.Replace(r.name, e.topics.Group, m.group, 1)
		}
		for _, op := range r.operations {
			if acl.ResourceName != m.rule.name || op != m.operation {
				acl.Operation = op
				acls = append(acls, acl)
			}
		}
	}
	return acls
}

// TestMissingRights withholds each right that `topics acls` prints from one user, and checks that the program names it.
func TestMissingRights(t *testing.T) {
	t.Parallel()
	harness.Need(t)
	e := &env{topics: harness.TopicsFor(t), redis: harness.Redis(t), recv: harness.NewReceiver(t)}
	e.flags = []string{"--topics.partitions=2", "--retry.schedule=1h,2h"}
	rules := printedACLs(t, harness.Options{Topics: e.topics, Args: e.flags})
	all := rightsLacking(e, rules)
	var (
		users []string
		acls  []kmsg.CreateACLsRequestCreation
	)
	for _, m := range all {
		users = append(users, m.user)
		acls = append(acls, m.acls(e, rules[m.command])...)
	}
	b := harness.GuardedKafka(t, users...)
	e.kafka = b.Broker
	e.ensure(t)
	b.GrantMany(t, acls)
	options := func(m missing) harness.Options {
		return e.options(append(b.FlagsOf(m.user), "--kafka.group="+m.group)...)
	}
	var apart []missing // those that may run in parallel
	for _, m := range all {
		if m.operation != kadm.OpCreate {
			apart = append(apart, m)
			continue
		}
		t.Run(m.String(), func(t *testing.T) {
			e.drop(t, m.rule)
			m.wantNamed(t, options(m), "topics", "ensure")
			e.ensure(t)
		})
	}
	// The commands need credentials to seal, a key, and an event that waits for its second attempt.
	e.configure(t, map[int64]harness.Webhook{1: e.all(1, "plain:text")})
	harness.Run(t, e.options(), "keys", "create", "--user=1")
	e.recv.On(path("dlr", 1), harness.Status(http.StatusInternalServerError))
	e.emit(t, e.dlr(1, 1))
	for _, m := range apart {
		t.Run(m.String(), func(t *testing.T) {
			t.Parallel()
			if m.command == "serve" {
				p := harness.Start(t, options(m))
				if m.rule.resource == "--transactional-id" {
					p.WaitReady(t, harness.Patience)
					p.WaitMetric(t, harness.Patience, harness.AtLeast(1), "smshooks_settled_total", "fate", "retry")
					harness.StartProgram(t, nil, harness.Binary(t), append(e.topics.Flags(), "retry", "release", "--user=1", "--kafka.brokers="+b.Addr,
						"--retry.schedule=1h,2h", "--overflow.delays=1s,3s,10s", "--kafka.group="+m.group)...)
				}
				harness.Eventually(t, harness.Patience, func() bool {
					_, ready := p.Readyz()
					return m.namedBy(ready) || m.namedBy(p.Log())
				}, "the service names the right")
				return
			}
			o := options(m)
			if m.command == "topics check" && m.rule.resource == "--group" {
				o.Args = append(o.Args, "--overflow.delays=1s,3s") // the group's offsets show what the orphaned topic still holds
			}
			m.wantNamed(t, o, m.args(e)...)
		})
	}
}

// args returns arguments with which a command needs the right.
func (m missing) args(e *env) []string {
	switch m.command {
	case "keys":
		if m.operation == kadm.OpRead {
			return []string{"keys", "revoke", "smsh_" + strings.Repeat("0", 64)}
		}
		return []string{"keys", "create", "--user=1"}
	case "deadletter":
		return []string{"deadletter", "replay"}
	case "secrets":
		return []string{"secrets", "reseal", "--secrets.key=" + base64.StdEncoding.EncodeToString(make([]byte, 32))}
	case "send":
		return []string{"send", "--user=1"}
	case "explain":
		return []string{"explain", e.topics.DLR + "/0/0"}
	case "retry release":
		if m.operation == kadm.OpWrite {
			return []string{"retry", "release", "--user=1"}
		}
		return []string{"retry", "release", "--user=1", "--dry-run"}
	}
	return strings.Fields(m.command)
}

// wantNamed runs a command that fails without the right, and checks that the error names it.
func (m missing) wantNamed(t *testing.T, o harness.Options, args ...string) {
	t.Helper()
	out, stderr, code := harness.Run(t, o, args...)
	// Orphaned topics do not make the check fail.
	if failed := code == 1 || m.command == "topics check" && m.rule.resource == "--group"; !failed || !m.namedBy(stderr) {
		t.Errorf("exit code %d: %s%s", code, out, stderr)
	}
}

// drop deletes the topic of a rule.
func (e *env) drop(t *testing.T, r rule) {
	t.Helper()
	topic := r.name
	if r.prefixed {
		topic += map[string]string{"retry": "1h", "overflow": "3s", "paused": "24h"}[strings.Split(strings.TrimPrefix(r.name, e.topics.DLR+"-"), "-")[0]]
	}
	adm := kadm.NewClient(harness.Client(t, e.kafka.Addr))
	if _, err := adm.DeleteTopic(t.Context(), topic); err != nil {
		t.Fatalf("delete topic %s: %v", topic, err)
	}
	harness.Eventually(t, harness.Patience, func() bool {
		listed, err := adm.ListTopics(t.Context(), topic)
		return err == nil && !listed.Has(topic)
	}, "topic %s is deleted", topic)
}

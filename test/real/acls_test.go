package real_test

import (
	"net/http"
	"slices"
	"strings"
	"testing"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/smshooks/smshooks/test/real/harness"
)

// rule is a line of the output of `topics acls`.
type rule struct {
	operations []kadm.ACLOperation
	prefixed   bool
	resource   string // --topic, --group or --transactional-id
	name       string
}

// printedACLs returns the rules of each command, by name.
func printedACLs(t *testing.T, o harness.Options) map[string][]rule {
	t.Helper()
	out, stderr, code := harness.Run(t, o, "topics", "acls", "--principal=User:"+harness.GuardedUser)
	if code != 0 {
		t.Fatalf("exit code %d: %s", code, stderr)
	}
	rules, command := map[string][]rule{}, ""
	for line := range strings.Lines(out) {
		line = strings.TrimSpace(line)
		if heading, ok := strings.CutPrefix(line, "# "); ok {
			command = heading
			continue
		}
		words := strings.Fields(line)
		if len(words) == 0 {
			continue
		}
		if !slices.Contains(words, "User:"+harness.GuardedUser) {
			t.Fatalf("no principal in %q", line)
		}
		r := rule{resource: words[len(words)-2], name: words[len(words)-1], prefixed: slices.Contains(words, "prefixed")}
		for i, word := range words {
			if word == "--operation" {
				op, err := kmsg.ParseACLOperation(words[i+1])
				if err != nil {
					t.Fatal(err)
				}
				r.operations = append(r.operations, op)
			}
		}
		rules[command] = append(rules[command], r)
	}
	return rules
}

func (r rule) acl() *kadm.ACLBuilder {
	pattern := kadm.ACLPatternLiteral
	if r.prefixed {
		pattern = kadm.ACLPatternPrefixed
	}
	acl := kadm.NewACLs().Allow("User:" + harness.GuardedUser).AllowHosts().Operations(r.operations...).ResourcePatternType(pattern)
	switch r.resource {
	case "--topic":
		return acl.Topics(r.name)
	case "--group":
		return acl.Groups(r.name)
	default:
		return acl.TransactionalIDs(r.name)
	}
}

// TestLeastRights runs each command with exactly the rights that `topics acls` prints for it, on a broker with Kafka's
// own authorizer. Each must do its work, and the error must name a missing right.
func TestLeastRights(t *testing.T) {
	t.Parallel()
	b := harness.GuardedKafka(t)
	e := &env{topics: harness.TopicsFor(t), kafka: b.Broker, redis: harness.Redis(t)}
	e.recv = harness.NewReceiver(t)
	e.flags = append([]string{"--topics.partitions=2"}, b.Flags()...)
	rules := printedACLs(t, e.options())
	as := func(command string) {
		t.Helper()
		if len(rules[command]) == 0 {
			t.Fatalf("no rights printed for %q", command)
		}
		b.DepriveOfAll(t)
		for _, r := range rules[command] {
			b.GrantACL(t, r.acl())
		}
	}
	run := func(args ...string) string {
		t.Helper()
		out, stderr, code := harness.Run(t, e.options(), args...)
		if code != 0 {
			t.Fatalf("%s: exit code %d: %s%s", strings.Join(args, " "), code, out, stderr)
		}
		return out
	}
	as("topics ensure")
	run("topics", "ensure")
	as("topics check")
	run("topics", "check")
	as("keys")
	key := strings.TrimSpace(run("keys", "create", "--user", "1"))

	as("serve")
	e.configure(t, map[int64]harness.Webhook{1: e.all(1, ""), 2: e.all(2, ""), 3: e.all(3, "")})
	e.recv.On(path("dlr", 2), firstFails())
	e.recv.On(path("dlr", 3), harness.Codes(500))
	p := e.serve(t)
	if status := post(t, p.Addr, key, "/v1/user/set-webhook", "inbound_url="+e.recv.URL(path("inbound", 1))); status != http.StatusOK {
		t.Errorf("set-webhook: %d", status)
	}
	e.emit(t, e.dlr(1, 1), e.dlr(2, 1), e.dlr(3, 1), e.click(1, 1), e.revocation(1, []int64{1}, nil))
	e.recv.WaitCount(t, path("dlr", 1), 1, harness.Patience)
	e.recv.WaitCount(t, path("click", 1), 1, harness.Patience)
	e.recv.WaitCount(t, path("revoke", 1), 1, harness.Patience)
	e.recv.WaitCount(t, path("dlr", 2), 2, harness.Patience)
	e.dead(t, 3, 1, harness.Patience)
	if status, text := p.Readyz(); status != http.StatusOK {
		t.Errorf("/readyz is %d: %s", status, text)
	}
	if code := p.Term(t); code != 0 {
		t.Errorf("exit code %d", code)
	}
	for _, word := range []string{"AUTHORIZATION", "lacks the"} {
		if strings.Contains(p.Log(), word) {
			t.Errorf("the log of a service with all rights contains %q", word)
		}
	}

	as("deadletter")
	if out := run("deadletter", "list"); !strings.Contains(out, "attempts_exhausted") {
		t.Errorf("deadletter list: %s", out)
	}
	run("deadletter", "replay")
	as("send")
	sent := run("send", "--user=1")
	as("explain")
	run("explain", strings.Fields(sent)[0])
}

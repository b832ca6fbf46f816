package harness

import (
	"testing"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"
)

// The user with which programs log in to a GuardedBroker, by SASL/PLAIN.
const (
	GuardedUser     = "smshooks"
	GuardedPassword = "smshooks-password"
)

// GuardedBroker is a broker that checks rights. The test itself, at Addr, may do everything; the user at GuardedAddr
// has only the granted rights.
type GuardedBroker struct {
	*Broker
	GuardedAddr string
}

// GuardedKafka starts a broker for the test, with Kafka's authorizer. users can log in as well, with the same password.
func GuardedKafka(t testing.TB, users ...string) *GuardedBroker {
	t.Helper()
	s := kafkaSpec()
	s.ports = []string{"9092", "9094"}
	s.env = func(addrs []string) map[string]string {
		vars := kafkaEnv(addrs)
		vars["KAFKA_LISTENER_SECURITY_PROTOCOL_MAP"] += ",GUARDED:SASL_PLAINTEXT"
		vars["KAFKA_LISTENERS"] += ",GUARDED://0.0.0.0:9094"
		vars["KAFKA_ADVERTISED_LISTENERS"] += ",GUARDED://" + addrs[1]
		vars["KAFKA_SASL_ENABLED_MECHANISMS"] = "PLAIN"
		logins := "org.apache.kafka.common.security.plain.PlainLoginModule required"
		for _, user := range append(users, GuardedUser) {
			logins += " user_" + user + `="` + GuardedPassword + `"`
		}
		vars["KAFKA_LISTENER_NAME_GUARDED_PLAIN_SASL_JAAS_CONFIG"] = logins + ";"
		vars["KAFKA_AUTHORIZER_CLASS_NAME"] = "org.apache.kafka.metadata.authorizer.StandardAuthorizer"
		vars["KAFKA_SUPER_USERS"] = "User:ANONYMOUS"
		return vars
	}
	srv := runOwn(t, s)
	return &GuardedBroker{Broker: &Broker{Addr: srv.addr, srv: srv}, GuardedAddr: srv.addrs[1]}
}

// Flags returns the flags with which the program logs in.
func (b *GuardedBroker) Flags() []string { return b.FlagsOf(GuardedUser) }

// FlagsOf returns the flags for a login as user.
func (b *GuardedBroker) FlagsOf(user string) []string {
	return []string{
		"--kafka.brokers=" + b.GuardedAddr, "--kafka.sasl.mechanism=PLAIN",
		"--kafka.sasl.username=" + user, "--kafka.sasl.password=" + GuardedPassword,
	}
}

func guardedACLs(ops []kadm.ACLOperation) *kadm.ACLBuilder {
	return kadm.NewACLs().Allow("User:" + GuardedUser).Operations(ops...).ResourcePatternType(kadm.ACLPatternLiteral)
}

// admin returns a client that changes rights. It waits longer than others, since nothing repeats its requests.
func (b *GuardedBroker) admin(t testing.TB) *kgo.Client {
	t.Helper()
	return Client(t, b.Addr, kgo.RequestTimeoutOverhead(Patience))
}

// Grant grants the user rights on topics.
func (b *GuardedBroker) Grant(t testing.TB, topics []string, ops ...kadm.ACLOperation) {
	t.Helper()
	b.create(t, guardedACLs(ops).AllowHosts().Topics(topics...))
}

// GrantGroup grants the user the rights of a member of a group.
func (b *GuardedBroker) GrantGroup(t testing.TB, group string) {
	t.Helper()
	b.create(t, guardedACLs([]kadm.ACLOperation{kadm.OpRead}).AllowHosts().Groups(group))
}

// GrantACL grants the user the rights of acls.
func (b *GuardedBroker) GrantACL(t testing.TB, acls *kadm.ACLBuilder) {
	t.Helper()
	b.create(t, acls)
}

// GrantMany grants rights to several users in one request.
func (b *GuardedBroker) GrantMany(t testing.TB, acls []kmsg.CreateACLsRequestCreation) {
	t.Helper()
	cl, req := b.admin(t), kmsg.NewCreateACLsRequest()
	req.Creations = acls
	resp, err := req.RequestWith(within(t, Patience), cl)
	if err != nil {
		t.Fatalf("create ACLs: %v", err)
	}
	for i, r := range resp.Results {
		if err := kerr.ErrorForCode(r.ErrorCode); err != nil {
			t.Fatalf("create ACL %+v: %v", acls[i], err)
		}
	}
	all := kadm.NewACLs().AnyResource().Allow().AllowHosts().Operations(kadm.OpAny).ResourcePatternType(kadm.ACLPatternAny)
	Eventually(t, Patience, func() bool {
		described, err := kadm.NewClient(cl).DescribeACLs(within(t, Patience), all)
		n := 0
		for _, d := range described {
			n += len(d.Described)
		}
		return err == nil && n >= len(acls)
	}, "the broker shows %d ACLs", len(acls))
}

// DepriveOfAll revokes all rights.
func (b *GuardedBroker) DepriveOfAll(t testing.TB) {
	t.Helper()
	all := kadm.NewACLs().Allow("User:" + GuardedUser).AllowHosts().AnyResource().Operations(kadm.OpAny).
		ResourcePatternType(kadm.ACLPatternAny)
	deleted, err := kadm.NewClient(b.admin(t)).DeleteACLs(within(t, Patience), all)
	if err != nil {
		t.Fatalf("delete ACLs: %v", err)
	}
	for _, d := range deleted {
		if d.Err != nil {
			t.Fatalf("delete ACLs: %v", d.Err)
		}
	}
}

func (b *GuardedBroker) create(t testing.TB, acls *kadm.ACLBuilder) {
	t.Helper()
	created, err := kadm.NewClient(b.admin(t)).CreateACLs(within(t, Patience), acls)
	if err != nil {
		t.Fatalf("create ACLs: %v", err)
	}
	for _, c := range created {
		if c.Err != nil {
			t.Fatalf("create ACL %+v: %v", c, c.Err)
		}
	}
	// The broker that checks requests learns of them a moment after the controller.
	Eventually(t, Patience, func() bool {
		described, err := kadm.NewClient(b.admin(t)).DescribeACLs(within(t, Patience), acls)
		n := 0
		for _, d := range described {
			n += len(d.Described)
		}
		return err == nil && n >= len(created)
	}, "the broker has %d ACLs", len(created))
}

// Deprive revokes rights on topics.
func (b *GuardedBroker) Deprive(t testing.TB, topics []string, ops ...kadm.ACLOperation) {
	t.Helper()
	deleted, err := kadm.NewClient(b.admin(t)).DeleteACLs(within(t, Patience), guardedACLs(ops).AllowHosts().Topics(topics...))
	if err != nil {
		t.Fatalf("delete ACLs: %v", err)
	}
	n := 0
	for _, d := range deleted {
		if d.Err != nil {
			t.Fatalf("delete ACLs: %v", d.Err)
		}
		n += len(d.Deleted)
	}
	if n != len(topics)*len(ops) {
		t.Fatalf("%d ACLs deleted, want %d", n, len(topics)*len(ops))
	}
}

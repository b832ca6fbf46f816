package config

import (
	"fmt"
	"net"
	"strings"
	"time"

	"github.com/smshooks/smshooks/pkg/delay"
)

// validator checks settings against each other.
type validator struct {
	c        *Config
	bad      map[string]bool // settings already found wrong
	problems []Problem
}

// validate returns the conflicts between settings. Rules about a bad setting are
// skipped, since they would check its default.
func validate(c *Config, bad map[string]bool) []Problem {
	v := &validator{c: c, bad: bad}
	v.dispatch()
	v.kafka()
	v.redis()
	v.secrets()
	v.listeners()
	for _, p := range c.TopicPlan().Problems() {
		v.fail(p.Setting, p.Text, p.Other)
	}
	return v.problems
}

// Warnings returns a line for each combination of valid settings that has an effect which is easily missed.
func (c *Config) Warnings() []string {
	after := time.Duration(0) // the first attempt
	for i, d := range c.Retry.Schedule {
		// An attempt that is due when the window ends comes too late: the attempts before it took some time.
		if after += d; after >= c.Retry.Window {
			return []string{fmt.Sprintf("retry.schedule: only %d of %d attempts are made, except for revocations: "+
				"attempt %d is due %s after the first, but retry.window is %s", i+1, len(c.Retry.Schedule)+1, i+2,
				delay.Name(after), delay.Name(c.Retry.Window))}
		}
	}
	return nil
}

// fail reports name, unless it or one of the others involved is bad already.
func (v *validator) fail(name, text string, others ...string) {
	if v.bad[name] {
		return
	}
	for _, other := range others {
		if v.bad[other] {
			return
		}
	}
	// If two settings conflict, report the one that was set, not the other one's default.
	for _, other := range others {
		if v.c.Origin(name) == "default" && v.c.Origin(other) != "default" && !strings.Contains(text, " from ") {
			text += fmt.Sprintf("; %s is from %s", other, v.c.origins[other].place())
		}
	}
	v.problems = append(v.problems, Problem{name, text, v.c.origins[name].place()})
}

func (v *validator) dispatch() {
	d := v.c.Dispatch
	if d.MaxInFlight < d.Parallel {
		v.fail("dispatch.max_in_flight", fmt.Sprintf("%d is less than dispatch.parallel, which is %d from %s",
			d.MaxInFlight, d.Parallel, v.c.origins["dispatch.parallel"].place()), "dispatch.parallel")
	}
}

func (v *validator) kafka() {
	v.sasl()
	// The client rejects less.
	if least := 100 * time.Millisecond; v.c.Kafka.SessionTimeout < least {
		v.fail("kafka.session_timeout", fmt.Sprintf("%v is less than %v", v.c.Kafka.SessionTimeout, least))
	}
	v.tls("kafka.tls", v.c.Kafka.TLS)
}

// sasl checks that the settings of a login belong to its mechanism, and that none is missing.
func (v *validator) sasl() {
	const mechanism, section = "kafka.sasl.mechanism", "kafka.sasl."
	sasl := v.c.Kafka.SASL
	password := sasl.Mechanism == "PLAIN" || strings.HasPrefix(sasl.Mechanism, "SCRAM-")
	bearer := sasl.Mechanism == "OAUTHBEARER"
	fromURL := bearer && sasl.OAuth.TokenFile == ""
	for _, s := range []struct {
		name, value  string
		used, needed bool
	}{
		{"username", sasl.Username, password, password},
		{"password", sasl.Password, password, password},
		{"oauth.token_url", sasl.OAuth.TokenURL, fromURL, fromURL},
		{"oauth.client_id", sasl.OAuth.ClientID, fromURL, fromURL},
		{"oauth.client_secret", sasl.OAuth.ClientSecret, fromURL, fromURL},
		{"oauth.scope", sasl.OAuth.Scope, fromURL, false},
		{"oauth.token_file", sasl.OAuth.TokenFile, bearer, false},
	} {
		switch {
		case s.value == "" && s.needed:
			v.fail(section+s.name, "must not be empty with "+mechanism+" "+sasl.Mechanism, mechanism)
		case s.value == "" || s.used:
		case sasl.Mechanism == "":
			v.fail(section+s.name, "is set, but "+mechanism+" is not", mechanism)
		case bearer && s.name != "username" && s.name != "password":
			v.fail(section+s.name, "is set together with kafka.sasl.oauth.token_file: leave one out", section+"oauth.token_file")
		default:
			v.fail(section+s.name, "is set, but "+mechanism+" "+sasl.Mechanism+" does not use it", mechanism)
		}
	}
}

// tls checks a section of TLS settings. Without TLS the others would be ignored
// and the connection would not be encrypted.
func (v *validator) tls(section string, t TLS) {
	enabled, ca, cert, key := section+".enabled", section+".ca_file", section+".cert_file", section+".key_file"
	switch {
	case t.CertFile != "" && t.KeyFile == "":
		v.fail(cert, "is set, but "+key+" is not", key)
	case t.CertFile == "" && t.KeyFile != "":
		v.fail(key, "is set, but "+cert+" is not", cert)
	}
	for _, s := range []struct {
		name, what string
		set        bool
	}{
		{ca, "file", t.CAFile != ""},
		{cert, "file", t.CertFile != ""},
		{key, "file", t.KeyFile != ""},
		{section + ".server_name", "setting", t.ServerName != ""},
		{section + ".insecure_skip_verify", "setting", t.InsecureSkipVerify},
	} {
		if s.set && !t.Enabled {
			v.fail(s.name, "is set, but "+enabled+" is not: set it to true or remove the "+s.what, enabled)
		}
	}
}

func (v *validator) redis() {
	r := v.c.Redis
	if r.Cluster && r.MasterName != "" {
		v.fail("redis.master_name", "is set together with redis.cluster: leave one out", "redis.cluster")
	}
	for _, s := range []struct{ name, value string }{{"redis.sentinel.username", r.Sentinel.Username},
		{"redis.sentinel.password", r.Sentinel.Password}} {
		if s.value != "" && r.MasterName == "" {
			v.fail(s.name, "is set, but redis.master_name is not: only Sentinels need it", "redis.master_name")
		}
	}
	if r.Username != "" && r.Password == "" { // the client would not log in
		v.fail("redis.password", "must not be empty with redis.username", "redis.username")
	}
	if r.Sentinel.Username != "" && r.Sentinel.Password == "" {
		v.fail("redis.sentinel.password", "must not be empty with redis.sentinel.username", "redis.sentinel.username")
	}
	v.tls("redis.tls", r.TLS)
	// Several addresses without Sentinel are those of a cluster.
	cluster := r.Cluster || (r.MasterName == "" && len(r.Addrs) > 1)
	if cluster && r.DB != 0 {
		v.fail("redis.db", fmt.Sprintf("%d: a cluster has only database 0", r.DB), "redis.cluster", "redis.addrs")
	}
}

// secrets checks that previous keys are set only with a current key: without it,
// credentials would be written in clear text from then on.
func (v *validator) secrets() {
	if len(v.c.Secrets.PreviousKeys) > 0 && v.c.Secrets.Key == nil {
		v.fail("secrets.previous_keys", "is set, but secrets.key is not", "secrets.key")
	}
}

func (v *validator) listeners() {
	addr := v.c.Ops.Addr
	if _, port, _ := net.SplitHostPort(addr); port != "0" && addr == v.c.API.Addr {
		v.fail("ops.addr", fmt.Sprintf("%q is also api.addr", addr), "api.addr")
	}
}

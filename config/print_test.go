package config_test

import (
	"bytes"
	"errors"
	"strings"
	"testing"

	"github.com/smshooks/smshooks/config"
)

func TestWriteYAMLRoundTrip(t *testing.T) {
	fs := parsed(t,
		"--kafka.brokers=a:1,[::1]:2", "--kafka.group=0123", "--kafka.instance_id=true", "--kafka.tls.enabled", "--kafka.tls.ca_file=null",
		"--redis.key_prefix= x: #y", "--redis.master_name=é\n'# x", "--dispatch.success=2xx", "--dispatch.max_buffered_bytes=1GiB",
		"--dispatch.allow_networks=127.0.0.1,::/0", "--retry.schedule=", "--overflow.delays=500ms,1.5s,90m", "--click.remember=30d", "--log.format=json",
	)
	changed, err := config.Load("", nil, fs)
	if err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]*config.Config{"defaults": config.Defaults(), "changed": changed} {
		var b bytes.Buffer
		if err := c.WriteYAML(&b); err != nil {
			t.Fatal(err)
		}
		back, err := config.Load(write(t, b.String()), nil, nil)
		if err != nil {
			t.Fatalf("%s: %v in\n%s", name, err, b.String())
		}
		if diff := difference(*back, *c); diff != "" {
			t.Errorf("%s: %s", name, diff)
		}
	}
}

func TestWriteYAMLPrintsEverySettingButNoSecret(t *testing.T) {
	const password = "hunter2"
	c, err := config.Load("", []string{
		"SMSHOOKS_SECRETS_KEY=" + goodKey, "SMSHOOKS_REDIS_PASSWORD=" + password,
		"SMSHOOKS_SECRETS_PREVIOUS_KEYS=" + goodKey + "," + goodKey, "SMSHOOKS_REDIS_MASTER_NAME=m", "SMSHOOKS_REDIS_SENTINEL_PASSWORD=" + password,
		"SMSHOOKS_KAFKA_SASL_MECHANISM=SCRAM-SHA-512", "SMSHOOKS_KAFKA_SASL_USERNAME=u", "SMSHOOKS_KAFKA_SASL_PASSWORD=" + password,
	}, nil)
	if err != nil {
		t.Fatal(err)
	}
	var b bytes.Buffer
	if err := c.WriteYAML(&b); err != nil {
		t.Fatal(err)
	}
	text := b.String()
	if strings.Contains(text, password) || strings.Contains(text, goodKey[:8]) {
		t.Errorf("a secret is printed:\n%s", text)
	}
	if n := strings.Count(text, "'********'"); n != 6 {
		t.Errorf("%d masks for 6 secrets:\n%s", n, text)
	}
	for _, row := range config.Rows() {
		key := row.Name[strings.LastIndex(row.Name, ".")+1:]
		if !strings.Contains(text, " "+key+": ") {
			t.Errorf("%s is not printed", row.Name)
		}
	}
	for _, line := range []string{"  schedule: [6h, 6h] #", "  max_buffered_bytes: 67108864 #", "  remember: 720h #", "  success: 200 #", "    enabled: false #"} {
		if !strings.Contains(text, line) {
			t.Errorf("no line %q in\n%s", line, text)
		}
	}
	got := lines(t, write(t, text), nil, nil)
	if len(got) != 5 || !strings.Contains(got[0], "kafka.sasl.password: is the mask") {
		t.Errorf("masked secrets load as %q", got)
	}
}

type brokenPipe struct{}

func (brokenPipe) Write([]byte) (int, error) { return 0, errBroken }

var errBroken = errors.New("broken pipe")

func TestWriteYAMLReturnsWriteErrors(t *testing.T) {
	if err := config.Defaults().WriteYAML(brokenPipe{}); !errors.Is(err, errBroken) {
		t.Errorf("WriteYAML = %v, want %v", err, errBroken)
	}
}

// Each line says where its value came from.
func TestWriteYAMLPrintsOrigins(t *testing.T) {
	file := write(t, "retry:\n  window: 20h\nredis:\n  key_prefix: \"a # b\"\n")
	c, err := config.Load(file, []string{"SMSHOOKS_KAFKA_GROUP=of-the-environment"}, parsed(t, "--log.level=warn", "--retry.schedule="))
	if err != nil {
		t.Fatal(err)
	}
	var b bytes.Buffer
	if err := c.WriteYAML(&b); err != nil {
		t.Fatal(err)
	}
	lines := strings.Split(strings.TrimSpace(b.String()), "\n")
	for _, line := range lines {
		if !strings.HasSuffix(line, ":") && !strings.Contains(line, " # ") {
			t.Errorf("no origin: %s", line)
		}
	}
	for setting, want := range map[string]string{
		"window: 20h": "file " + file + ", line 2", "group: of-the-environment": "env SMSHOOKS_KAFKA_GROUP",
		"level: warn": "flag --log.level", "interval: 1m": "default", "schedule: []": "flag --retry.schedule", `key_prefix: 'a # b'`: "file " + file + ", line 4",
	} {
		if !strings.Contains(b.String(), "  "+setting+" # "+want+"\n") {
			t.Errorf("lacks %q # %q in\n%s", setting, want, b.String())
		}
	}
}

func TestValues(t *testing.T) {
	values := config.Values()
	for name, want := range map[string]string{"log.level": "debug info warn error", "topics.ensure": "true false", "kafka.sasl.mechanism": "PLAIN SCRAM-SHA-256 SCRAM-SHA-512 OAUTHBEARER AWS_MSK_IAM", "kafka.group": ""} {
		if got := strings.Join(values[name], " "); got != want {
			t.Errorf("%s: %q, want %q", name, got, want)
		}
	}
}

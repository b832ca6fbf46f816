package config_test

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/spf13/pflag"

	"github.com/smshooks/smshooks/config"
)

const (
	goodKey = "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8="
	badKey  = "c2hvcnQgYnV0IHNlY3JldA=="
)

func describe(v reflect.Value) string { return fmt.Sprintf("%+v", v.Interface()) }

// write writes text to a new file and returns its path.
func write(t *testing.T, text string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "smshooks.yaml")
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// parsed returns the flags of a command line.
func parsed(t *testing.T, args ...string) *pflag.FlagSet {
	t.Helper()
	fs := pflag.NewFlagSet("smshooks", pflag.ContinueOnError)
	config.Flags(fs)
	if err := fs.Parse(args); err != nil {
		t.Fatal(err)
	}
	return fs
}

func TestPrecedence(t *testing.T) {
	file := write(t, "retry: {window: 1h, schedule: [1s, 2s, 3s]}\nkafka: {brokers: [f:1, g:2], group: from-file}\n")
	env := []string{"SMSHOOKS_RETRY_WINDOW=2h", "SMSHOOKS_KAFKA_BROKERS=e:1,f:2", "SMSHOOKS_RETRY_SCHEDULE=4s"}
	for _, tc := range []struct {
		name                      string
		file                      string
		env, args                 []string
		window, brokers, schedule string
		origin                    string
	}{
		{"defaults", "", nil, nil, "24h0m0s", "[127.0.0.1:9092]", "[6h0m0s 6h0m0s]", "default"},
		{"file", file, nil, nil, "1h0m0s", "[f:1 g:2]", "[1s 2s 3s]", "file " + file},
		{"variable over file", file, env, nil, "2h0m0s", "[e:1 f:2]", "[4s]", "environment variable SMSHOOKS_RETRY_WINDOW"},
		{
			"flag over variable", file, env,
			[]string{"--retry.window=3h", "--kafka.brokers=x:1", "--kafka.brokers=y:2,z:3", "--retry.schedule="},
			"3h0m0s", "[x:1 y:2 z:3]", "[]", "flag --retry.window",
		},
		{"flag equal to the default", file, env, []string{"--retry.window=24h"}, "24h0m0s", "[e:1 f:2]", "[4s]", "flag --retry.window"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			c, err := config.Load(tc.file, tc.env, parsed(t, tc.args...))
			if err != nil {
				t.Fatal(err)
			}
			if got := c.Retry.Window.String(); got != tc.window {
				t.Errorf("retry.window = %s, want %s", got, tc.window)
			}
			if got := fmt.Sprint(c.Kafka.Brokers); got != tc.brokers {
				t.Errorf("kafka.brokers = %s, want %s", got, tc.brokers)
			}
			if got := fmt.Sprint(c.Retry.Schedule); got != tc.schedule {
				t.Errorf("retry.schedule = %s, want %s", got, tc.schedule)
			}
			if got := c.Origin("retry.window"); got != tc.origin {
				t.Errorf("Origin = %q, want %q", got, tc.origin)
			}
			if got := c.Origin("log.level"); got != "default" {
				t.Errorf("Origin of an untouched setting = %q", got)
			}
		})
	}
}

// TestEverySource sets each setting to its default value from each source.
func TestEverySource(t *testing.T) {
	for _, row := range config.Rows() {
		if c, err := config.Load("", []string{row.Env + "=" + row.Default}, nil); err != nil {
			t.Errorf("%s: %v", row.Env, err)
		} else if got := c.Origin(row.Name); got != "environment variable "+row.Env {
			t.Errorf("Origin(%s) = %q", row.Name, got)
		}
		if c, err := config.Load("", nil, parsed(t, "--"+row.Name+"="+row.Default)); err != nil {
			t.Errorf("--%s: %v", row.Name, err)
		} else if got := c.Origin(row.Name); got != "flag --"+row.Name {
			t.Errorf("Origin(%s) = %q", row.Name, got)
		}
		file := write(t, fmt.Sprintf("%s: %q\n", row.Name, row.Default))
		if c, err := config.Load(file, nil, nil); err != nil {
			t.Errorf("%s in a file: %v", row.Name, err)
		} else if got := c.Origin(row.Name); got != "file "+file {
			t.Errorf("Origin(%s) = %q", row.Name, got)
		}
	}
}

// TestGoodValues loads valid values from variables.
func TestGoodValues(t *testing.T) {
	for _, tc := range []struct {
		variable string
		get      func(*config.Config) any
		want     string
	}{
		{"KAFKA_BROKERS= a:9092 , b:9092", func(c *config.Config) any { return c.Kafka.Brokers }, "[a:9092 b:9092]"},
		{"KAFKA_BROKERS=[::1]:9092,[::2]:9092", func(c *config.Config) any { return c.Kafka.Brokers }, "[[::1]:9092 [::2]:9092]"},
		{"KAFKA_INSTANCE_ID=pod-1", func(c *config.Config) any { return c.Kafka.InstanceID }, "pod-1"},
		{"KAFKA_TLS_ENABLED=true", func(c *config.Config) any { return c.Kafka.TLS.Enabled }, "true"},
		{"REDIS_KEY_PREFIX=", func(c *config.Config) any { return c.Redis.KeyPrefix + "|" }, "|"},
		{"REDIS_PASSWORD=a=b, c", func(c *config.Config) any { return c.Redis.Password }, "a=b, c"},
		{"RETRY_SCHEDULE=", func(c *config.Config) any { return len(c.Retry.Schedule) }, "0"},
		{"RETRY_SCHEDULE=2s,2s,500ms", func(c *config.Config) any { return c.Retry.Schedule }, "[2s 2s 500ms]"},
		{"CLICK_REMEMBER=30d", func(c *config.Config) any { return c.Click.Remember }, "720h0m0s"},
		{"DISPATCH_SUCCESS=2XX", func(c *config.Config) any { return c.Dispatch.Success }, "2xx"},
		{"DISPATCH_MAX_BUFFERED_BYTES=67108864", func(c *config.Config) any { return c.Dispatch.MaxBufferedBytes }, "67108864"},
		{"DISPATCH_MAX_BUFFERED_BYTES=64MiB", func(c *config.Config) any { return c.Dispatch.MaxBufferedBytes }, "67108864"},
		{"DISPATCH_MAX_BUFFERED_BYTES=64 MiB", func(c *config.Config) any { return c.Dispatch.MaxBufferedBytes }, "67108864"},
		{"DISPATCH_MAX_BUFFERED_BYTES=64MB", func(c *config.Config) any { return c.Dispatch.MaxBufferedBytes }, "64000000"},
		{
			"DISPATCH_ALLOW_NETWORKS=127.0.0.1,10.1.2.3/8,::1,fd00::/8",
			func(c *config.Config) any { return c.Dispatch.AllowNetworks }, "[127.0.0.1/32 10.0.0.0/8 ::1/128 fd00::/8]",
		},
		{
			"DISPATCH_ALLOW_NETWORKS=::ffff:10.1.2.3/104,::ffff:127.0.0.1,::ffff:0:0/96,::ffff:0:0/95",
			func(c *config.Config) any { return c.Dispatch.AllowNetworks }, "[10.0.0.0/8 127.0.0.1/32 0.0.0.0/0 ::fffe:0:0/95]",
		},
		{"DISPATCH_DENY_NETWORKS=::ffff:a00:0/104", func(c *config.Config) any { return c.Dispatch.DenyNetworks }, "[10.0.0.0/8]"},
		{"API_TRUSTED_PROXIES=::ffff:10.0.0.1", func(c *config.Config) any { return c.API.TrustedProxies }, "[10.0.0.1/32]"},
		{"DISPATCH_DENY_NETWORKS=10.0.0.0/8", func(c *config.Config) any { return c.Dispatch.DenyNetworks }, "[10.0.0.0/8]"},
		{"DISPATCH_NAT64_PREFIXES=2001:db8:64::1/96", func(c *config.Config) any { return c.Dispatch.NAT64Prefixes }, "[2001:db8:64::/96]"},
		{"DISPATCH_PORTS=443,8000-8999", func(c *config.Config) any { return c.Dispatch.Ports }, "[{443 443} {8000 8999}]"},
		{"API_MAX_CONNECTIONS=7", func(c *config.Config) any { return c.API.MaxConnections }, "7"},
		{"API_ADDR=:0", func(c *config.Config) any { return c.API.Addr }, ":0"},
		{"API_RATE=0", func(c *config.Config) any { return c.API.Rate }, "0"},
		{"API_REPLAY_LIMIT=5", func(c *config.Config) any { return c.API.ReplayLimit }, "5"},
		{"API_TRUSTED_PROXIES=10.0.0.0/8,::1", func(c *config.Config) any { return c.API.TrustedProxies }, "[10.0.0.0/8 ::1/128]"},
		{"LOG_LEVEL=WARN", func(c *config.Config) any { return c.Log.Level }, "warn"},
		{"TOPICS_REPLICATION=3", func(c *config.Config) any { return c.Topics.Replication }, "3"},
		{"SECRETS_KEY=" + goodKey, func(c *config.Config) any { return len(c.Secrets.Key) }, "32"},
		{"SECRETS_KEY=" + strings.TrimRight(goodKey, "="), func(c *config.Config) any { return c.Secrets.Key[31] }, "31"},
		{"TEST_KAFKA_IMAGE=x", func(c *config.Config) any { return c.Kafka.Group }, "smshooks"},
	} {
		c, err := config.Load("", []string{"HOME=/", "SMSHOOKS=1", "SMSHOOKS_" + tc.variable}, nil)
		if err != nil {
			t.Errorf("%s: %v", tc.variable, err)
			continue
		}
		if got := fmt.Sprint(tc.get(c)); got != tc.want {
			t.Errorf("%s gives %s, want %s", tc.variable, got, tc.want)
		}
	}
}

func TestBooleanFlag(t *testing.T) {
	c, err := config.Load("", []string{"SMSHOOKS_REDIS_TLS_ENABLED=true"}, parsed(t, "--topics.ensure", "--redis.tls.enabled=false"))
	if err != nil {
		t.Fatal(err)
	}
	if !c.Topics.Ensure || c.Redis.TLS.Enabled {
		t.Errorf("topics.ensure = %v, redis.tls.enabled = %v", c.Topics.Ensure, c.Redis.TLS.Enabled)
	}
}

func TestGoodFiles(t *testing.T) {
	for _, tc := range []struct {
		name, text string
		check      func(*config.Config) bool
	}{
		{"empty", "", func(c *config.Config) bool { return c.Kafka.Group == "smshooks" }},
		{"comments only", "# nothing\n", func(c *config.Config) bool { return c.Kafka.Group == "smshooks" }},
		{"section with everything commented out", "kafka:\n  # group: x\nredis:\n  db: 2\n", func(c *config.Config) bool { return c.Redis.DB == 2 }},
		{"dotted key", "retry.window: 1h\n", func(c *config.Config) bool { return c.Retry.Window == time.Hour }},
		{"list as text", "kafka: {brokers: 'a:1, b:2'}\n", func(c *config.Config) bool { return len(c.Kafka.Brokers) == 2 }},
		{"empty list", "retry: {schedule: []}\n", func(c *config.Config) bool { return len(c.Retry.Schedule) == 0 }},
		{"key without value", "retry:\n  schedule:\n", func(c *config.Config) bool { return len(c.Retry.Schedule) == 0 }},
		{"text that looks like a number", "redis: {password: 0123}\n", func(c *config.Config) bool { return c.Redis.Password == "0123" }},
		{"bare status", "dispatch: {success: 200}\n", func(c *config.Config) bool { return c.Dispatch.Success == "200" }},
		{"alias", "kafka: {brokers: &x [a:1]}\nredis: {addrs: *x}\n", func(c *config.Config) bool { return c.Redis.Addrs[0] == "a:1" }},
	} {
		t.Run(tc.name, func(t *testing.T) {
			c, err := config.Load(write(t, tc.text), nil, nil)
			if err != nil {
				t.Fatal(err)
			}
			if !tc.check(c) {
				t.Errorf("read as %+v", *c)
			}
		})
	}
}

// lines returns the problems that Load reports, and fails if there are none.
func lines(t *testing.T, file string, env []string, fs *pflag.FlagSet) []string {
	t.Helper()
	c, err := config.Load(file, env, fs)
	var wrong *config.Error
	if !errors.As(err, &wrong) || c != nil {
		t.Fatalf("Load = %v, %v, want an *Error and nothing else", c, err)
	}
	return strings.Split(err.Error(), "\n")
}

// TestFlags checks that Flags returns what another command needs for the same settings, without secrets.
func TestFlags(t *testing.T) {
	file := filepath.Join(t.TempDir(), "it's.yaml")
	if err := os.WriteFile(file, []byte("topics: {dlr: x}\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	fs := parsed(t, "--kafka.brokers=a:1,b:2", "--kafka.sasl.mechanism=PLAIN", "--kafka.sasl.username=a b", "--kafka.sasl.password=secret")
	c, err := config.Load(file, []string{"SMSHOOKS_TOPICS_CLICK=y"}, fs)
	if err != nil {
		t.Fatal(err)
	}
	want := []string{"'--config=" + strings.ReplaceAll(file, "'", `'\''`) + "'", "--kafka.brokers=a:1,b:2", "--kafka.sasl.mechanism=PLAIN", "'--kafka.sasl.username=a b'"}
	if got := c.Flags(); !slices.Equal(got, want) {
		t.Errorf("flags %q, want %q", got, want)
	}
}

// TestUsage checks that no usage text contains a backquote: pflag prints a backquoted text in place of the value.
func TestUsage(t *testing.T) {
	for _, row := range config.Rows() {
		if strings.Contains(row.Usage, "`") {
			t.Errorf("%s: %q", row.Name, row.Usage)
		}
	}
}

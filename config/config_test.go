package config_test

import (
	"net/netip"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/smshooks/smshooks/config"
)

func TestDefaults(t *testing.T) {
	c, err := config.Load("", nil, nil)
	if err != nil {
		t.Fatalf("the defaults do not load: %v", err)
	}
	want := config.Config{
		Kafka: config.Kafka{Brokers: []string{"127.0.0.1:9092"}, Group: "smshooks", SessionTimeout: 45 * time.Second, Isolation: "read_committed", MaxBatchBytes: 64 << 20, GroupProtocol: "classic"},
		Topics: config.Topics{
			DLR: "sms-dlr", Click: "sms-click", Inbound: "sms-inbound", Revocation: "click-revocation",
			Config: "webhook-config", Keys: "webhook-keys", DeadLetter: "webhook-dead-letter", Events: "webhook-events", Releases: "webhook-releases", Partitions: 12, Replication: -1,
		},
		Redis: config.Redis{Addrs: []string{"127.0.0.1:6379"}, KeyPrefix: "smshooks:"},
		API:   config.API{Addr: "127.0.0.1:8080", Rate: 50, MaxConnections: 1000, ReplayLimit: 10_000, TrustedProxies: []netip.Prefix{}},
		Ops:   config.Ops{Addr: "127.0.0.1:9464"},
		Dispatch: config.Dispatch{
			Parallel: 3, Timeout: 10 * time.Second, Success: "200", MaxInFlight: 2000, QueuePerEndpoint: 1024,
			MaxBufferedBytes: 64 << 20, AllowNetworks: []netip.Prefix{}, DenyNetworks: []netip.Prefix{}, NAT64Prefixes: []netip.Prefix{}, Ports: []config.PortRange{},
		},
		Retry:      config.Retry{Schedule: []time.Duration{6 * time.Hour, 6 * time.Hour}, Drain: []time.Duration{}, Window: 24 * time.Hour},
		Overflow:   config.Overflow{Delays: []time.Duration{10 * time.Second, time.Minute, 5 * time.Minute, 30 * time.Minute}, Drain: []time.Duration{}},
		Paused:     config.Paused{Drain: []time.Duration{}},
		Revocation: config.Revocation{Interval: time.Minute, MaxIDs: 10_000},
		Click:      config.Click{Remember: 30 * 24 * time.Hour},
		Shutdown:   config.Shutdown{Grace: 15 * time.Second},
		Log:        config.Log{Level: "info"},
		Tracing:    config.Tracing{Sample: 0.01},
		Secrets:    config.Secrets{PreviousKeys: [][]byte{}},
		Embedded:   config.Embedded{KafkaAddr: "127.0.0.1:19092", RedisAddr: "127.0.0.1:16379", Dir: "smshooks-data"},
	}
	for _, got := range []*config.Config{c, config.Defaults()} {
		if diff := difference(*got, want); diff != "" {
			t.Error(diff)
		}
		if o := got.Origin("retry.window"); o != "default" {
			t.Errorf("Origin of an untouched setting = %q", o)
		}
	}
}

// difference returns the first exported part in which two settings differ.
func difference(got, want config.Config) string {
	g, w := reflect.ValueOf(got), reflect.ValueOf(want)
	for i := range g.NumField() {
		if f := g.Type().Field(i); f.IsExported() && !reflect.DeepEqual(g.Field(i).Interface(), w.Field(i).Interface()) {
			return f.Name + " differs:\n got " + describe(g.Field(i)) + "\nwant " + describe(w.Field(i))
		}
	}
	return ""
}

func TestTable(t *testing.T) {
	names, envs := map[string]bool{}, map[string]bool{}
	sections, last := map[string]bool{}, ""
	for _, row := range config.Rows() {
		if names[row.Name] || envs[row.Env] {
			t.Errorf("%s or %s is a duplicate", row.Name, row.Env)
		}
		names[row.Name], envs[row.Env] = true, true
		if row.Name != strings.ToLower(row.Name) {
			t.Errorf("%s is not lower case, as viper requires", row.Name)
		}
		if row.Usage == "" {
			t.Errorf("%s has no usage text", row.Name)
		}
		section := row.Name[:strings.LastIndex(row.Name, ".")]
		if section != last && sections[section] {
			t.Errorf("%s is separated from the rest of its section", row.Name)
		}
		sections[section], last = true, section
	}
	var secrets []string
	for _, row := range config.Rows() {
		if row.Secret {
			secrets = append(secrets, row.Name)
		}
	}
	if want := []string{"kafka.sasl.password", "kafka.sasl.oauth.client_secret", "redis.password", "redis.sentinel.password", "secrets.key", "secrets.previous_keys", "portal.secret"}; !slices.Equal(secrets, want) {
		t.Errorf("secrets = %v, want %v", secrets, want)
	}
}

// TestWarnings checks that steps of the schedule that the window makes impossible are reported. A step that ends with the
// window is impossible: the attempt before it took some time.
func TestWarnings(t *testing.T) {
	hours := func(list ...time.Duration) (delays []time.Duration) {
		for _, n := range list {
			delays = append(delays, n*time.Hour)
		}
		return delays
	}
	for _, tc := range []struct {
		schedule []time.Duration
		window   time.Duration
		want     string
	}{
		{hours(6, 6), 24 * time.Hour, ""},
		{nil, time.Second, ""},
		{hours(6, 6, 12), 24*time.Hour + time.Millisecond, ""},
		{hours(6, 6, 12), 24 * time.Hour, "retry.schedule: only 3 of 4 attempts are made, except for revocations: " +
			"attempt 4 is due 24h after the first, but retry.window is 24h"},
		{[]time.Duration{time.Second, 20 * time.Second, time.Hour}, 5 * time.Second, "retry.schedule: only 2 of 4 attempts are made, " +
			"except for revocations: attempt 3 is due 21s after the first, but retry.window is 5s"},
	} {
		c := config.Defaults()
		c.Retry.Schedule, c.Retry.Window = tc.schedule, tc.window
		if got := strings.Join(c.Warnings(), "\n"); got != tc.want {
			t.Errorf("%v with %v: %q, want %q", tc.schedule, tc.window, got, tc.want)
		}
	}
}

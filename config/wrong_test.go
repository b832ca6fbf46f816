package config_test

import (
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/smshooks/smshooks/config"
)

func TestWrongValues(t *testing.T) {
	long := strings.Repeat("x", 245)
	for _, tc := range []struct{ name, value, want string }{
		{"kafka.brokers", "", `must not be empty`},
		{"kafka.brokers", "a:9092,,b:9092", `"" is not host:port`},
		{"kafka.brokers", "localhost", `"localhost" is not host:port`},
		{"kafka.brokers", "a:0", `"a:0" has no port from 1 to 65535`},
		{"kafka.brokers", ":9092", `":9092" is not host:port`},
		{"redis.addrs", "redis://u:pw@h:1", `is not host:port: leave out the scheme and the user`},
		{"redis.addrs", "", `must not be empty`},
		{"redis.db", "-1", `"-1" is not between 0 and 2147483647`},
		{"kafka.group", " ", `must not be empty`},
		{"kafka.instance_id", "a b", `"a b" is not a legal name (use letters, digits, '.', '_' and '-')`},
		{"kafka.session_timeout", "0s", `"0s" is not above zero`},
		{"kafka.session_timeout", "50ms", `50ms is less than 100ms`},
		{"kafka.tls.enabled", "perhaps", `"perhaps" is neither true nor false`},
		{"kafka.sasl.mechanism", "GSSAPI", `"GSSAPI" is not one of PLAIN, SCRAM-SHA-256, SCRAM-SHA-512, OAUTHBEARER, AWS_MSK_IAM`},
		{"topics.dlr", "", `"" is not a legal name (use letters, digits, '.', '_' and '-')`},
		{"topics.dlr", "a/b", `"a/b" is not a legal name (use letters, digits, '.', '_' and '-')`},
		{"topics.dlr", "..", `".." is not a legal name`},
		{"topics.config", long + "12345", `"` + long + `12345" is longer than 249 characters`},
		{"topics.dlr", long, `"` + long + `" is too long: its topic "` + long + `-retry-6h" has more than 249 characters`},
		{"topics.partitions", "0", `"0" is not between 1 and 100000`},
		{"topics.replication", "0", `"0" is neither -1 nor a number of replicas`},
		{"topics.replication", "-2", `"-2" is not between -1 and 32767`},
		{"api.addr", "127.0.0.1", `"127.0.0.1" is not host:port`},
		{"api.addr", "127.0.0.1:65536", `"127.0.0.1:65536" has no port from 0 to 65535`},
		{"ops.addr", "127.0.0.1:http", `"127.0.0.1:http" has no port from 0 to 65535`},
		{"ops.addr", "127.0.0.1:8080", `"127.0.0.1:8080" is also api.addr`},
		{"api.rate", "-1", `"-1" is not between 0 and 2147483647`},
		{"api.replay_limit", "-1", `"-1" is not between 0 and 2147483647`},
		{"api.trusted_proxies", "proxy", `"proxy" is neither a network nor an address (try 10.0.0.0/8)`},
		{"api.rate", "1.5", `"1.5" is not a whole number`},
		{"dispatch.parallel", "0", `"0" is not between 1 and 2147483647`},
		{"dispatch.parallel", "99999999999999999999", `"99999999999999999999" is not between 1 and 2147483647`},
		{"dispatch.max_in_flight", "2", `2 is less than dispatch.parallel, which is 3 from default`},
		{"dispatch.queue_per_endpoint", "0", `"0" is not between 1 and 2147483647`},
		{"dispatch.success", "204", `"204" is not one of 200, 2xx`},
		{"dispatch.timeout", "", `"" is not a duration (try 10s, 1h30m, 30d)`},
		{"dispatch.timeout", "10", `"10" is not a duration (try 10s, 1h30m, 30d)`},
		{"dispatch.max_buffered_bytes", "1023KiB", `"1023KiB" is less than 1048576 bytes`},
		{"dispatch.max_buffered_bytes", "64XB", `"64XB" has an unknown unit (B, kB, MB, GB, TB, KiB, MiB, GiB, TiB)`},
		{"dispatch.max_buffered_bytes", "-1", `"-1" is not a number of bytes (try 67108864 or 64MiB)`},
		{"dispatch.max_buffered_bytes", "9999999999TiB", `"9999999999TiB" is too large`},
		{"dispatch.allow_networks", "10.0.0.0/8,home", `"home" is neither a network nor an address (try 10.0.0.0/8)`},
		{"dispatch.allow_networks", "fe80::1%eth0", `"fe80::1%eth0" is neither a network nor an address (try 10.0.0.0/8)`},
		{"dispatch.deny_networks", "10.0.0.0/33", `"10.0.0.0/33" is neither a network nor an address (try 10.0.0.0/8)`},
		{"dispatch.nat64_prefixes", "10.0.0.0/8", `"10.0.0.0/8" is not a NAT64 prefix (an IPv6 network of length 32, 40, 48, 56, 64 or 96, as in 2001:db8:64::/96)`},
		{"dispatch.nat64_prefixes", "2001:db8::/97", `"2001:db8::/97" is not a NAT64 prefix (an IPv6 network of length 32, 40, 48, 56, 64 or 96, as in 2001:db8:64::/96)`},
		{"dispatch.nat64_prefixes", "2001:db8::1", `"2001:db8::1" is not a NAT64 prefix (an IPv6 network of length 32, 40, 48, 56, 64 or 96, as in 2001:db8:64::/96)`},
		{"dispatch.ports", "0", `"0" is not a port from 1 to 65535 or a range of them (as in 443 or 8000-8999)`},
		{"dispatch.ports", "65536", `"65536" is not a port from 1 to 65535 or a range of them (as in 443 or 8000-8999)`},
		{"dispatch.ports", "9-8", `"9-8" is not a port from 1 to 65535 or a range of them (as in 443 or 8000-8999)`},
		{"dispatch.ports", "443-", `"443-" is not a port from 1 to 65535 or a range of them (as in 443 or 8000-8999)`},
		{"dispatch.ports", "https", `"https" is not a port from 1 to 65535 or a range of them (as in 443 or 8000-8999)`},
		{"retry.schedule", "6h,0s", `"0s" is not above zero`},
		{"retry.schedule", "6h,1500us", `"1500us" is not a whole number of milliseconds`},
		{"retry.window", "abc", `"abc" is not a duration (try 10s, 1h30m, 30d)`},
		{"retry.window", "-1h", `"-1h" is not above zero`},
		{"retry.window", "106751d", `"106751d" is longer than 87600h`},
		{"retry.schedule", "6h,90000h", `"90000h" is longer than 87600h`},
		{"overflow.delays", "", `must not be empty`},
		{"overflow.delays", "10s,10s", `"10s" is listed twice`},
		{"overflow.delays", "60s,1m", `"1m" is listed twice`},
		{"overflow.delays", "1m,10s", `"10s" follows "1m", must ascend`},
		{"overflow.delays", delays(101), `has 101 delays, at most 100`},
		{"retry.schedule", strings.Repeat("10m,", 100) + "10m", `has 101 delays, at most 100`},
		{"overflow.delays", "1us", `"1us" is not a whole number of milliseconds`},
		{"revocation.interval", "0", `"0" is not above zero`},
		{"revocation.max_ids", "0", `"0" is not between 1 and 2147483647`},
		{"click.remember", "forever", `"forever" is not a duration (try 10s, 1h30m, 30d)`},
		{"shutdown.grace", "0s", `"0s" is not above zero`},
		{"tracing.endpoint", "collector:4318", `"collector:4318" is not an absolute http or https URL (try http://collector:4318)`},
		{"tracing.endpoint", "http://user:pw@h:1", `is not a URL, or has a user, a query or a fragment (try http://collector:4318)`},
		{"tracing.endpoint", "http://h:1/?key=x", `is not a URL, or has a user, a query or a fragment (try http://collector:4318)`},
		{"tracing.sample", "1.01", `"1.01" is not a number from 0 to 1`},
		{"tracing.sample", "NaN", `"NaN" is not a number from 0 to 1`},
		{"log.level", "loud", `"loud" is not one of debug, info, warn, error`},
		{"log.format", "xml", `"xml" is not one of json, console`},
		{"embedded.kafka_addr", "0.0.0.0:19092", `"0.0.0.0:19092" is not a loopback address: the embedded servers have no authentication`},
		{"embedded.redis_addr", ":16379", `":16379" is not a loopback address: the embedded servers have no authentication`},
		{"embedded.dir", "", `must not be empty`},
		{"secrets.key", "!!", "is not base64 (make one with `openssl rand -base64 32`)"},
		{"secrets.key", badKey, "is 16 bytes long, not 32 (make one with `openssl rand -base64 32`)"},
		{"portal.secret", "!!", "is not base64 (make one with `openssl rand -base64 32`)"},
		{"portal.secret", badKey, "is 16 bytes long, not 32 or more (make one with `openssl rand -base64 32`)"},
		{"secrets.key", "********", "is the mask that `config print` writes, not the secret itself"},
		{"kafka.sasl.username", "u", `is set, but kafka.sasl.mechanism is not`},
		{"kafka.sasl.password", "p", `is set, but kafka.sasl.mechanism is not`},
		{"kafka.tls.ca_file", "c", `is set, but kafka.tls.enabled is not: set it to true or remove the file`},
		{"redis.tls.ca_file", "c", `is set, but redis.tls.enabled is not: set it to true or remove the file`},
		{"kafka.tls.server_name", "s", `is set, but kafka.tls.enabled is not: set it to true or remove the setting`},
		{"redis.tls.server_name", "s", `is set, but redis.tls.enabled is not: set it to true or remove the setting`},
		{"kafka.tls.insecure_skip_verify", "true", `is set, but kafka.tls.enabled is not: set it to true or remove the setting`},
		{"redis.tls.insecure_skip_verify", "true", `is set, but redis.tls.enabled is not: set it to true or remove the setting`},
		{"redis.sentinel.password", "p", `is set, but redis.master_name is not: only Sentinels need it`},
		{"secrets.previous_keys", goodKey, `is set, but secrets.key is not`},
		{"secrets.previous_keys", goodKey + ",!!", "is not base64 (make one with `openssl rand -base64 32`)"},
		{"secrets.previous_keys", goodKey + ",,", "contains an empty key"},
		{"topics.click", "sms-dlr", `"sms-dlr" is also the topic of topics.dlr`},
		{"topics.dead_letter", "sms-dlr-retry-6h", `"sms-dlr-retry-6h" is also a delay topic of topics.dlr`},
		{"topics.inbound", "sms-click-overflow-30m", `"sms-click-overflow-30m" is also a delay topic of topics.click`},
	} {
		t.Run(tc.name+"="+tc.value, func(t *testing.T) {
			variable := "SMSHOOKS_" + strings.ToUpper(strings.ReplaceAll(tc.name, ".", "_"))
			file := write(t, "# first line\n"+tc.name+": '"+tc.value+"'\n")
			for origin, got := range map[string][]string{
				"environment variable " + variable: lines(t, "", []string{variable + "=" + tc.value}, nil),
				"flag --" + tc.name:                lines(t, "", nil, parsed(t, "--"+tc.name+"="+tc.value)),
				"file " + file + ", line 2":        lines(t, file, nil, nil),
			} {
				if want := []string{tc.name + ": " + tc.want + " (from " + origin + ")"}; !slices.Equal(got, want) {
					t.Errorf("got\n%s\nwant\n%s", strings.Join(got, "\n"), want[0])
				}
			}
		})
	}
}

func TestWrongCombinations(t *testing.T) {
	for _, tc := range []struct {
		name string
		args []string
		want []string
	}{
		{
			"mechanism alone", []string{"--kafka.sasl.mechanism=plain"},
			[]string{
				"kafka.sasl.username: must not be empty with kafka.sasl.mechanism PLAIN; kafka.sasl.mechanism is from flag --kafka.sasl.mechanism (from default)",
				"kafka.sasl.password: must not be empty with kafka.sasl.mechanism PLAIN; kafka.sasl.mechanism is from flag --kafka.sasl.mechanism (from default)",
			},
		},
		{
			"OAUTHBEARER alone", []string{"--kafka.sasl.mechanism=oauthbearer", "--kafka.sasl.username=u"},
			[]string{
				"kafka.sasl.username: is set, but kafka.sasl.mechanism OAUTHBEARER does not use it (from flag --kafka.sasl.username)",
				"kafka.sasl.oauth.token_url: must not be empty with kafka.sasl.mechanism OAUTHBEARER; kafka.sasl.mechanism is from flag --kafka.sasl.mechanism (from default)",
				"kafka.sasl.oauth.client_id: must not be empty with kafka.sasl.mechanism OAUTHBEARER; kafka.sasl.mechanism is from flag --kafka.sasl.mechanism (from default)",
				"kafka.sasl.oauth.client_secret: must not be empty with kafka.sasl.mechanism OAUTHBEARER; kafka.sasl.mechanism is from flag --kafka.sasl.mechanism (from default)",
			},
		},
		{
			"a token from two places", []string{"--kafka.sasl.mechanism=OAUTHBEARER", "--kafka.sasl.oauth.token_file=t", "--kafka.sasl.oauth.scope=s"},
			[]string{"kafka.sasl.oauth.scope: is set together with kafka.sasl.oauth.token_file: leave one out (from flag --kafka.sasl.oauth.scope)"},
		},
		{
			"a token without need", []string{"--kafka.sasl.mechanism=AWS_MSK_IAM", "--kafka.sasl.oauth.token_file=t"},
			[]string{"kafka.sasl.oauth.token_file: is set, but kafka.sasl.mechanism AWS_MSK_IAM does not use it (from flag --kafka.sasl.oauth.token_file)"},
		},
		{
			"a bad mechanism is the only problem reported", []string{"--kafka.sasl.mechanism=x", "--kafka.sasl.username=u", "--kafka.sasl.password=p"},
			[]string{`kafka.sasl.mechanism: "x" is not one of PLAIN, SCRAM-SHA-256, SCRAM-SHA-512, OAUTHBEARER, AWS_MSK_IAM (from flag --kafka.sasl.mechanism)`},
		},
		{
			"half a pair", []string{"--kafka.tls.enabled", "--kafka.tls.cert_file=c", "--redis.tls.enabled", "--redis.tls.key_file=k"},
			[]string{
				"kafka.tls.cert_file: is set, but kafka.tls.key_file is not (from flag --kafka.tls.cert_file)",
				"redis.tls.key_file: is set, but redis.tls.cert_file is not (from flag --redis.tls.key_file)",
			},
		},
		{
			"files without TLS", []string{"--redis.tls.ca_file=a", "--redis.tls.cert_file=c", "--redis.tls.key_file=k", "--redis.tls.enabled=false"},
			[]string{
				"redis.tls.ca_file: is set, but redis.tls.enabled is not: set it to true or remove the file (from flag --redis.tls.ca_file)",
				"redis.tls.cert_file: is set, but redis.tls.enabled is not: set it to true or remove the file (from flag --redis.tls.cert_file)",
				"redis.tls.key_file: is set, but redis.tls.enabled is not: set it to true or remove the file (from flag --redis.tls.key_file)",
			},
		},
		{
			"files of Kafka without TLS", []string{"--kafka.tls.cert_file=c", "--kafka.tls.key_file=k"},
			[]string{
				"kafka.tls.cert_file: is set, but kafka.tls.enabled is not: set it to true or remove the file (from flag --kafka.tls.cert_file)",
				"kafka.tls.key_file: is set, but kafka.tls.enabled is not: set it to true or remove the file (from flag --kafka.tls.key_file)",
			},
		},
		{
			"verification without TLS", []string{"--kafka.tls.server_name=s", "--kafka.tls.insecure_skip_verify"},
			[]string{
				"kafka.tls.server_name: is set, but kafka.tls.enabled is not: set it to true or remove the setting (from flag --kafka.tls.server_name)",
				"kafka.tls.insecure_skip_verify: is set, but kafka.tls.enabled is not: set it to true or remove the setting (from flag --kafka.tls.insecure_skip_verify)",
			},
		},
		{
			"Sentinel's user alone", []string{"--redis.master_name=m", "--redis.sentinel.username=u"},
			[]string{"redis.sentinel.password: must not be empty with redis.sentinel.username; redis.sentinel.username is from flag --redis.sentinel.username (from default)"},
		},
		{
			"Redis's user alone", []string{"--redis.username=u"},
			[]string{"redis.password: must not be empty with redis.username; redis.username is from flag --redis.username (from default)"},
		},
		{
			"Sentinel and cluster", []string{"--redis.cluster", "--redis.master_name=m"},
			[]string{"redis.master_name: is set together with redis.cluster: leave one out (from flag --redis.master_name)"},
		},
		{
			"database of a cluster", []string{"--redis.addrs=a:1,b:2", "--redis.db=1"},
			[]string{"redis.db: 1: a cluster has only database 0 (from flag --redis.db)"},
		},
		{
			"names that collide in Kafka", []string{"--topics.dlr=a.b", "--topics.click=a_b"},
			[]string{`topics.click: "a_b" is also the topic of topics.dlr (from flag --topics.click)`},
		},
		{
			"text that YAML cannot hold", []string{"--redis.key_prefix=a\xff:", "--kafka.group=\x85", "--kafka.brokers=a:1,b\xff:1", "--redis.password=\xff"},
			[]string{
				"kafka.brokers: is not valid UTF-8 (from flag --kafka.brokers)",
				"kafka.group: is not valid UTF-8 (from flag --kafka.group)",
				"redis.key_prefix: is not valid UTF-8 (from flag --redis.key_prefix)",
			},
		},
		{
			"more parallel than in flight", []string{"--dispatch.parallel=3000"},
			[]string{"dispatch.max_in_flight: 2000 is less than dispatch.parallel, which is 3000 from flag --dispatch.parallel (from default)"},
		},
	} {
		t.Run(tc.name, func(t *testing.T) {
			if got := lines(t, "", nil, parsed(t, tc.args...)); !slices.Equal(got, tc.want) {
				t.Errorf("got\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(tc.want, "\n"))
			}
		})
	}
}

func TestWrongFiles(t *testing.T) {
	for _, tc := range []struct{ name, text, want string }{
		{"unknown setting", "retry:\n  windw: 1h\n", "retry.windw: unknown setting (from file FILE, line 2)"},
		{"unknown section", "\n\nretri: {}\n", "retri: unknown setting (from file FILE, line 3)"},
		{"capitals", "Retry: {window: 1h}\n", "Retry: unknown setting (from file FILE, line 1)"},
		{"value for a section", "retry: 6h\n", "retry: is a section, not a value (from file FILE, line 1)"},
		{"the switch of a section", "redis: {tls: true}\n", "redis.tls: is a section, not a value: set redis.tls.enabled (from file FILE, line 1)"},
		{"section for a value", "retry:\n  window: {a: 1}\n", "retry.window: is one value, not a mapping (from file FILE, line 2)"},
		{"list for a value", "retry: {window: [1h]}\n", "retry.window: is one value, not a list (from file FILE, line 1)"},
		{"section for a list", "retry: {schedule: {a: 1}}\n", "retry.schedule: is a list, not a mapping (from file FILE, line 1)"},
		{"list of lists", "retry: {schedule: [[1h]]}\n", "retry.schedule: must be a list of plain values (from file FILE, line 1)"},
		{"twice", "retry: {window: 1h}\nretry.window: 2h\n", "retry.window: is set twice, first in line 1 (from file FILE, line 2)"},
		{"a section twice", "retry: {window: 1h}\nretry: {schedule: 2h}\n", "retry: is set twice, first in line 1 (from file FILE, line 2)"},
		{"an empty section twice", "redis:\n  tls:\n  tls: {enabled: true}\n", "redis.tls: is set twice, first in line 2 (from file FILE, line 3)"},
		{"empty duration", "retry:\n  window:\n", `retry.window: "" is not a duration (try 10s, 1h30m, 30d) (from file FILE, line 2)`},
		{"not YAML", "retry: [\n", "file FILE: is not YAML: yaml: line 1: did not find expected node content"},
		{"no mapping", "- a\n", "file FILE: is not a YAML mapping of settings"},
		{"two documents", "retry: {}\n---\nretry: {}\n", "file FILE: holds more than one YAML document"},
		{"section within itself", "kafka: &k {tls: *k}\n", "kafka.tls.tls: unknown setting (from file FILE, line 1)"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			file := write(t, tc.text)
			if got, want := lines(t, file, nil, nil), strings.ReplaceAll(tc.want, "FILE", file); !slices.Equal(got, []string{want}) {
				t.Errorf("got\n%s\nwant\n%s", strings.Join(got, "\n"), want)
			}
		})
	}
	missing := filepath.Join(t.TempDir(), "none.yaml")
	if got := lines(t, missing, nil, nil); len(got) != 1 || !strings.HasPrefix(got[0], "file "+missing+": cannot be read: ") {
		t.Errorf("a missing file: %q", got)
	}
}

func TestEveryProblemIsReported(t *testing.T) {
	file := write(t, "retry:\n  windw: 1h\n  window: x\n")
	env := []string{"SMSHOOKS_ZZZ=1", "SMSHOOKS_AAA=1", "SMSHOOKS_kafka_group=g", "SMSHOOKS_API_RATE=x", "SMSHOOKS_TEST_X=1", "SMSHOOKS_REDIS_TLS=true"}
	got := lines(t, file, env, parsed(t, "--log.level=x"))
	want := []string{
		"retry.windw: unknown setting (from file " + file + ", line 2)",
		"SMSHOOKS_AAA: unknown setting (from environment variable SMSHOOKS_AAA)",
		"SMSHOOKS_REDIS_TLS: names a section, not a setting: set SMSHOOKS_REDIS_TLS_ENABLED (redis.tls.enabled) (from environment variable SMSHOOKS_REDIS_TLS)",
		"SMSHOOKS_ZZZ: unknown setting (from environment variable SMSHOOKS_ZZZ)",
		"SMSHOOKS_kafka_group: unknown setting (from environment variable SMSHOOKS_kafka_group)",
		`api.rate: "x" is not a whole number (from environment variable SMSHOOKS_API_RATE)`,
		`retry.window: "x" is not a duration (try 10s, 1h30m, 30d) (from file ` + file + ", line 3)",
		`log.level: "x" is not one of debug, info, warn, error (from flag --log.level)`,
	}
	if !slices.Equal(got, want) {
		t.Errorf("got\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
}

// A bad value is ignored if a later source replaces it.
func TestReplacedValueIsNotChecked(t *testing.T) {
	if _, err := config.Load("", []string{"SMSHOOKS_RETRY_WINDOW=abc"}, parsed(t, "--retry.window=1h")); err != nil {
		t.Error(err)
	}
}

func TestErrorsHoldNoSecret(t *testing.T) {
	const secret = "hunter2"
	for _, text := range []string{
		"kafka: {sasl: {password: hunter2}}\n",
		"kafka: {sasl: {password: [hunter2]}}\n",
		"kafka: {sasl: {password: {hunter2: 1}}}\n",
		"kafka: {sasl: {password: *hunter2}}\n",
		"kafka: {sasl: {password: @hunter2}}\n",
		"kafka: {sasl: {password: %hunter2}}\n",
		"kafka: {sasl: {password: !hunter2 x}}\n",
		"redis: {password: 'hunter2\n",
		"redis: {password: hunter2, db: x}\n",
		"redis: {addrs: ['redis://:hunter2@h:6379']}\n",
		"secrets: {key: hunter2}\n",
		"secrets: {key: [hunter2, hunter2]}\n",
	} {
		if got := strings.Join(lines(t, write(t, text), nil, nil), "\n"); strings.Contains(got, secret) {
			t.Errorf("%q: the error repeats the secret: %s", text, got)
		}
	}
}

// delays returns n delays.
func delays(n int) string {
	var all []string
	for i := range n {
		all = append(all, strconv.Itoa(i+1)+"s")
	}
	return strings.Join(all, ",")
}

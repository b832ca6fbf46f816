package config

import (
	"math"
	"net/netip"
	"slices"
	"time"
)

// table returns every setting, those of a section next to each other.
func table() []setting {
	return slices.Concat(kafkaTable(), topicsTable(), redisTable(), listenTable(), dispatchTable(), timeTable(), processTable())
}

// tlsTable returns the settings of one section's connections; who is at the other end.
func tlsTable(section, who string, at func(*Config) *TLS) []setting {
	return []setting{
		one(section+".enabled", boolean(), "false", func(c *Config) *bool { return &at(c).Enabled },
			"speak TLS to "+who),
		one(section+".ca_file", text(), "", func(c *Config) *string { return &at(c).CAFile },
			"PEM file of the authorities to trust; empty for the system's"),
		one(section+".cert_file", text(), "", func(c *Config) *string { return &at(c).CertFile },
			"PEM file of the client certificate; goes with "+section+".key_file"),
		one(section+".key_file", text(), "", func(c *Config) *string { return &at(c).KeyFile },
			"PEM file of the client certificate's key"),
		one(section+".server_name", text(), "", func(c *Config) *string { return &at(c).ServerName },
			"name expected in the certificates of "+who+"; empty for the host dialled"),
		one(section+".insecure_skip_verify", boolean(), "false", func(c *Config) *bool { return &at(c).InsecureSkipVerify },
			"accept any certificate; for tests only"),
	}
}

func kafkaTable() []setting {
	return slices.Concat([]setting{
		many("kafka.brokers", address(1), "127.0.0.1:9092", func(c *Config) *[]string { return &c.Kafka.Brokers }, notEmpty[string],
			"brokers to start from"),
		one("kafka.group", filled(), "smshooks", func(c *Config) *string { return &c.Kafka.Group },
			"consumer group"),
		one("kafka.instance_id", optional(legalName()), "", func(c *Config) *string { return &c.Kafka.InstanceID },
			"static membership: this process's own id within the group; empty for none"),
		one("kafka.session_timeout", duration(), "45s", func(c *Config) *time.Duration { return &c.Kafka.SessionTimeout },
			"how long a silent member keeps its partitions"),
		one("kafka.isolation", choice("read_committed", "read_uncommitted"), "read_committed", func(c *Config) *string { return &c.Kafka.Isolation },
			"records of transactions that are read: read_committed or read_uncommitted"),
		one("kafka.max_batch_bytes", byteSize(mebibyte, gibibyte), "67108864", func(c *Config) *int64 { return &c.Kafka.MaxBatchBytes },
			"most that a compressed batch may unpack to, from 1MiB to 1GiB; larger ones are skipped"),
	}, tlsTable("kafka.tls", "the brokers", func(c *Config) *TLS { return &c.Kafka.TLS }), []setting{
		one("kafka.sasl.mechanism", choice("", "PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512"), "", func(c *Config) *string { return &c.Kafka.SASL.Mechanism },
			"PLAIN, SCRAM-SHA-256 or SCRAM-SHA-512; empty for no login"),
		one("kafka.sasl.username", text(), "", func(c *Config) *string { return &c.Kafka.SASL.Username },
			"user to log in as"),
		hidden(one("kafka.sasl.password", text(), "", func(c *Config) *string { return &c.Kafka.SASL.Password },
			"that user's password")),
	})
}

func topicsTable() []setting {
	return []setting{
		one("topics.dlr", legalName(), "sms-dlr", func(c *Config) *string { return &c.Topics.DLR },
			"source of delivery reports"),
		one("topics.click", legalName(), "sms-click", func(c *Config) *string { return &c.Topics.Click },
			"source of clicks"),
		one("topics.inbound", legalName(), "sms-inbound", func(c *Config) *string { return &c.Topics.Inbound },
			"source of inbound messages"),
		one("topics.revocation", legalName(), "click-revocation", func(c *Config) *string { return &c.Topics.Revocation },
			"source of click revocations"),
		one("topics.config", legalName(), "webhook-config", func(c *Config) *string { return &c.Topics.Config },
			"users' webhook settings (compacted)"),
		one("topics.keys", legalName(), "webhook-keys", func(c *Config) *string { return &c.Topics.Keys },
			"API keys (compacted)"),
		one("topics.dead_letter", legalName(), "webhook-dead-letter", func(c *Config) *string { return &c.Topics.DeadLetter },
			"events given up"),
		one("topics.ensure", boolean(), "false", func(c *Config) *bool { return &c.Topics.Ensure },
			"create missing topics when the service starts"),
		one("topics.partitions", number(1, maxPartitions), "12", func(c *Config) *int { return &c.Topics.Partitions },
			"partitions of a created topic"),
		one("topics.replication", replication(), "-1", func(c *Config) *int { return &c.Topics.Replication },
			"replicas of a created topic; -1 for the broker's default"),
		one("topics.epoch", text(), "", func(c *Config) *string { return &c.Topics.Epoch },
			"part of the ids of events where brokers know no topic ids (Kafka before 3.1); change it when topics are created again"),
	}
}

func redisTable() []setting {
	return slices.Concat([]setting{
		many("redis.addrs", address(1), "127.0.0.1:6379", func(c *Config) *[]string { return &c.Redis.Addrs }, notEmpty[string],
			"one server, the Sentinels of redis.master_name, or nodes of a cluster"),
		one("redis.master_name", text(), "", func(c *Config) *string { return &c.Redis.MasterName },
			"name of the master that the Sentinels watch; empty for no Sentinel"),
		one("redis.cluster", boolean(), "false", func(c *Config) *bool { return &c.Redis.Cluster },
			"speak to a cluster, even where redis.addrs names a single node"),
		one("redis.username", text(), "", func(c *Config) *string { return &c.Redis.Username },
			"user to log in as; empty for the default user"),
		hidden(one("redis.password", text(), "", func(c *Config) *string { return &c.Redis.Password },
			"that user's password; empty for none")),
		one("redis.db", number(0, maxInt32), "0", func(c *Config) *int { return &c.Redis.DB },
			"database number; 0 in a cluster"),
		one("redis.key_prefix", text(), "smshooks:", func(c *Config) *string { return &c.Redis.KeyPrefix },
			"what every key in Redis starts with"),
		one("redis.sentinel.username", text(), "", func(c *Config) *string { return &c.Redis.Sentinel.Username },
			"user to log in as at the Sentinels; empty for the default user"),
		hidden(one("redis.sentinel.password", text(), "", func(c *Config) *string { return &c.Redis.Sentinel.Password },
			"that user's password; empty for none")),
	}, tlsTable("redis.tls", "Redis and the Sentinels", func(c *Config) *TLS { return &c.Redis.TLS }))
}

func listenTable() []setting {
	return []setting{
		one("api.addr", address(0), "127.0.0.1:8080", func(c *Config) *string { return &c.API.Addr },
			"where the API listens; port 0 for any free one"),
		one("api.rate", number(0, maxInt32), "50", func(c *Config) *int { return &c.API.Rate },
			"requests per key and second; 0 for no limit"),
		one("api.max_connections", number(1, maxInt32), "1000", func(c *Config) *int { return &c.API.MaxConnections },
			"connections that the API listener holds; when all are taken, the longest idle one is closed for a new one"),
		one("api.replay_limit", number(0, maxInt32), "10000", func(c *Config) *int { return &c.API.ReplayLimit },
			"events that a user may replay per hour, through the API and the page; 0 for no limit"),
		many("api.trusted_proxies", network(), "", func(c *Config) *[]netip.Prefix { return &c.API.TrustedProxies }, nil,
			"networks (CIDR) of the proxies in front of the API; requests with unknown keys that come through one are counted by the last untrusted address of X-Forwarded-For"),
		one("ops.addr", address(0), "127.0.0.1:9464", func(c *Config) *string { return &c.Ops.Addr },
			"where /metrics, /healthz, /readyz, /loglevel and /debug/pprof/ listen; port 0 for any free one"),
	}
}

func dispatchTable() []setting {
	return []setting{
		one("dispatch.parallel", number(1, maxInt32), "3", func(c *Config) *int { return &c.Dispatch.Parallel },
			"requests in flight per endpoint"),
		one("dispatch.timeout", duration(), "10s", func(c *Config) *time.Duration { return &c.Dispatch.Timeout },
			"longest time of one request, from dial to the last byte of the reply"),
		one("dispatch.success", choice("200", "2xx"), "200", func(c *Config) *string { return &c.Dispatch.Success },
			"statuses that mean delivered: 200 or 2xx"),
		one("dispatch.max_in_flight", number(1, maxInt32), "2000", func(c *Config) *int { return &c.Dispatch.MaxInFlight },
			"requests in flight in this process, at least dispatch.parallel"),
		one("dispatch.queue_per_endpoint", number(1, maxInt32), "1024", func(c *Config) *int { return &c.Dispatch.QueuePerEndpoint },
			"events that wait in memory for one endpoint before they overflow"),
		one("dispatch.max_buffered_bytes", byteSize(mebibyte, math.MaxInt64), "67108864", func(c *Config) *int64 { return &c.Dispatch.MaxBufferedBytes },
			"records held in memory by this process: bytes, or with a unit as in 64MiB; at least 1MiB"),
		many("dispatch.allow_networks", network(), "", func(c *Config) *[]netip.Prefix { return &c.Dispatch.AllowNetworks }, nil,
			"networks (CIDR) that webhooks may reach although they are blocked by default: loopback, private, link-local and the like"),
		many("dispatch.deny_networks", network(), "", func(c *Config) *[]netip.Prefix { return &c.Dispatch.DenyNetworks }, nil,
			"networks (CIDR) that webhooks may not reach, even if dispatch.allow_networks names them"),
		many("dispatch.nat64_prefixes", nat64(), "", func(c *Config) *[]netip.Prefix { return &c.Dispatch.NAT64Prefixes }, nil,
			"prefixes of your NAT64 gateways besides 64:ff9b::/96; the IPv4 address inside is checked too"),
		many("dispatch.ports", portRange(), "", func(c *Config) *[]PortRange { return &c.Dispatch.Ports }, nil,
			"ports that webhooks may reach: numbers and ranges, as in 443,8000-8999; empty for all"),
	}
}

func timeTable() []setting {
	return []setting{
		many("retry.schedule", step(), "6h,6h", func(c *Config) *[]time.Duration { return &c.Retry.Schedule }, nil,
			"delays after the first, second, … failure; one attempt more than there are delays"),
		many("retry.drain", step(), "", func(c *Config) *[]time.Duration { return &c.Retry.Drain }, nil,
			"former delays: their topics are read on until they are empty, and nothing more is written to them"),
		one("retry.window", duration(), "24h", func(c *Config) *time.Duration { return &c.Retry.Window },
			"no attempt starts later than this after the event"),
		many("overflow.delays", step(), "10s,1m,5m,30m", func(c *Config) *[]time.Duration { return &c.Overflow.Delays }, ascending,
			"tiers in which events of a slow endpoint wait, ascending"),
		many("overflow.drain", step(), "", func(c *Config) *[]time.Duration { return &c.Overflow.Drain }, nil,
			"former tiers: their topics are read on until they are empty, and nothing more is written to them"),
		one("revocation.interval", duration(), "1m", func(c *Config) *time.Duration { return &c.Revocation.Interval },
			"a user's revoked clicks are sent at multiples of this"),
		one("revocation.max_ids", number(1, maxInt32), "10000", func(c *Config) *int { return &c.Revocation.MaxIDs },
			"most ids in one batch"),
		one("click.remember", duration(), "720h", func(c *Config) *time.Duration { return &c.Click.Remember },
			"how long the first click of a message is remembered"),
	}
}

func processTable() []setting {
	return []setting{
		one("shutdown.grace", duration(), "15s", func(c *Config) *time.Duration { return &c.Shutdown.Grace },
			"how long a stop waits for requests in flight"),
		one("log.level", choice("debug", "info", "warn", "error"), "info", func(c *Config) *string { return &c.Log.Level },
			"debug, info, warn or error; PUT /loglevel at ops.addr changes it while running"),
		one("log.format", choice("", "json", "console"), "", func(c *Config) *string { return &c.Log.Format },
			"json or console; empty for console on a terminal, else json"),
		one("tracing.endpoint", optional(collector()), "", func(c *Config) *string { return &c.Tracing.Endpoint },
			"OpenTelemetry collector that spans are sent to by OTLP over HTTP, as in http://collector:4318; empty for no tracing"),
		one("tracing.sample", ratio(), "0.01", func(c *Config) *float64 { return &c.Tracing.Sample },
			"share of records without a traceparent header that are traced, 0 to 1; with one, its sampled flag decides"),
		hidden(one("secrets.key", key(), "", func(c *Config) *[]byte { return &c.Secrets.Key },
			"32 bytes in base64 that encrypt users' credentials at rest; empty to store them in clear")),
		hidden(many("secrets.previous_keys", key(), "", func(c *Config) *[][]byte { return &c.Secrets.PreviousKeys }, noEmptyKey,
			"former values of secrets.key, which still open what they sealed; `smshooks secrets reseal` makes them superfluous")),
		one("embedded.dir", filled(), "smshooks-data", func(c *Config) *string { return &c.Embedded.Dir },
			"where serve --embedded keeps its data"),
	}
}

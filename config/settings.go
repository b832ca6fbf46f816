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

// tlsTable returns the TLS settings of a section, for connections to who.
func tlsTable(section, who string, at func(*Config) *TLS) []setting {
	return []setting{
		one(section+".enabled", boolean(), "false", func(c *Config) *bool { return &at(c).Enabled },
			"use TLS for connections to "+who),
		one(section+".ca_file", text(), "", func(c *Config) *string { return &at(c).CAFile },
			"PEM file with the certificate authorities to trust; empty for the system's"),
		one(section+".cert_file", text(), "", func(c *Config) *string { return &at(c).CertFile },
			"PEM file with the client certificate; requires "+section+".key_file"),
		one(section+".key_file", text(), "", func(c *Config) *string { return &at(c).KeyFile },
			"PEM file with the key of the client certificate"),
		one(section+".server_name", text(), "", func(c *Config) *string { return &at(c).ServerName },
			"name expected in the certificates of "+who+"; empty for the host dialled"),
		one(section+".insecure_skip_verify", boolean(), "false", func(c *Config) *bool { return &at(c).InsecureSkipVerify },
			"accept any certificate; for tests only"),
	}
}

func kafkaTable() []setting {
	return slices.Concat([]setting{
		many("kafka.brokers", address(1), "127.0.0.1:9092", func(c *Config) *[]string { return &c.Kafka.Brokers }, notEmpty[string],
			"addresses of some brokers; the client finds the others"),
		one("kafka.group", filled(), "smshooks", func(c *Config) *string { return &c.Kafka.Group },
			"consumer group, the only one that may read the topics; under a new name everything in them is sent again"),
		one("kafka.instance_id", optional(legalName()), "", func(c *Config) *string { return &c.Kafka.InstanceID },
			"id of this process for static membership, unique within the group; empty for dynamic membership"),
		one("kafka.session_timeout", duration(), "45s", func(c *Config) *time.Duration { return &c.Kafka.SessionTimeout },
			"time without a heartbeat after which a member loses its partitions"),
		one("kafka.isolation", choice("read_committed", "read_uncommitted"), "read_committed", func(c *Config) *string { return &c.Kafka.Isolation },
			"which records of transactions are read: read_committed or read_uncommitted"),
		one("kafka.max_batch_bytes", byteSize(mebibyte, gibibyte), "67108864", func(c *Config) *int64 { return &c.Kafka.MaxBatchBytes },
			"largest uncompressed size of a batch, from 1MiB to 1GiB; larger batches are skipped"),
		one("kafka.rack", text(), "", func(c *Config) *string { return &c.Kafka.Rack },
			"rack or zone of this process: records are read from a replica in the same rack (KIP-392); empty for the leader"),
		one("kafka.group_protocol", choice("classic", "consumer"), "classic", func(c *Config) *string { return &c.Kafka.GroupProtocol },
			"protocol of the consumer group: classic, or consumer (KIP-848, Kafka 4.0 and later)"),
	}, tlsTable("kafka.tls", "the brokers", func(c *Config) *TLS { return &c.Kafka.TLS }), []setting{
		one("kafka.sasl.mechanism", choice("", "PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512", "OAUTHBEARER", "AWS_MSK_IAM"), "", func(c *Config) *string { return &c.Kafka.SASL.Mechanism },
			"PLAIN, SCRAM-SHA-256, SCRAM-SHA-512, OAUTHBEARER or AWS_MSK_IAM; empty to connect without authentication"),
		one("kafka.sasl.username", text(), "", func(c *Config) *string { return &c.Kafka.SASL.Username },
			"user name for PLAIN and SCRAM"),
		hidden(one("kafka.sasl.password", text(), "", func(c *Config) *string { return &c.Kafka.SASL.Password },
			"password of kafka.sasl.username")),
		one("kafka.sasl.oauth.token_url", optional(tokenServer()), "", func(c *Config) *string { return &c.Kafka.SASL.OAuth.TokenURL },
			"URL where OAUTHBEARER gets its token (client credentials grant)"),
		one("kafka.sasl.oauth.client_id", text(), "", func(c *Config) *string { return &c.Kafka.SASL.OAuth.ClientID },
			"client id for kafka.sasl.oauth.token_url"),
		hidden(one("kafka.sasl.oauth.client_secret", text(), "", func(c *Config) *string { return &c.Kafka.SASL.OAuth.ClientSecret },
			"secret of kafka.sasl.oauth.client_id")),
		one("kafka.sasl.oauth.scope", text(), "", func(c *Config) *string { return &c.Kafka.SASL.OAuth.Scope },
			"scopes to ask for, separated by spaces; empty for the token server's default"),
		one("kafka.sasl.oauth.token_file", text(), "", func(c *Config) *string { return &c.Kafka.SASL.OAuth.TokenFile },
			"file with the token of OAUTHBEARER, read at each login; replaces kafka.sasl.oauth.token_url"),
	})
}

func topicsTable() []setting {
	return []setting{
		one("topics.dlr", legalName(), "sms-dlr", func(c *Config) *string { return &c.Topics.DLR },
			"source topic of delivery receipts"),
		one("topics.click", legalName(), "sms-click", func(c *Config) *string { return &c.Topics.Click },
			"source topic of clicks"),
		one("topics.inbound", legalName(), "sms-inbound", func(c *Config) *string { return &c.Topics.Inbound },
			"source topic of inbound messages"),
		one("topics.revocation", legalName(), "click-revocation", func(c *Config) *string { return &c.Topics.Revocation },
			"source topic of click revocations"),
		one("topics.config", legalName(), "webhook-config", func(c *Config) *string { return &c.Topics.Config },
			"compacted topic of users' webhook settings"),
		one("topics.keys", legalName(), "webhook-keys", func(c *Config) *string { return &c.Topics.Keys },
			"compacted topic of API keys"),
		one("topics.dead_letter", legalName(), "webhook-dead-letter", func(c *Config) *string { return &c.Topics.DeadLetter },
			"dead letter topic: events that were given up"),
		one("topics.events", legalName(), "webhook-events", func(c *Config) *string { return &c.Topics.Events },
			"topic of endpoint events: which endpoints fail, which work again"),
		one("topics.releases", legalName(), "webhook-releases", func(c *Config) *string { return &c.Topics.Releases },
			"topic that says which delayed events were released: sent before their delay ended"),
		one("topics.ensure", boolean(), "false", func(c *Config) *bool { return &c.Topics.Ensure },
			"create missing topics when the service starts"),
		one("topics.partitions", number(1, maxPartitions), "12", func(c *Config) *int { return &c.Topics.Partitions },
			"partitions of topics that are created"),
		one("topics.replication", replication(), "-1", func(c *Config) *int { return &c.Topics.Replication },
			"replicas of topics that are created; -1 for the broker's default"),
		one("topics.epoch", text(), "", func(c *Config) *string { return &c.Topics.Epoch },
			"part of event ids if brokers do not support topic ids (Kafka before 3.1); change it when topics are created again"),
	}
}

func redisTable() []setting {
	return slices.Concat([]setting{
		many("redis.addrs", address(1), "127.0.0.1:6379", func(c *Config) *[]string { return &c.Redis.Addrs }, notEmpty[string],
			"address of one server, of the Sentinels of redis.master_name, or of nodes of a cluster"),
		one("redis.master_name", text(), "", func(c *Config) *string { return &c.Redis.MasterName },
			"name of the primary that the Sentinels monitor; empty to connect without Sentinel"),
		one("redis.cluster", boolean(), "false", func(c *Config) *bool { return &c.Redis.Cluster },
			"connect to a cluster, even if redis.addrs names a single node"),
		one("redis.username", text(), "", func(c *Config) *string { return &c.Redis.Username },
			"user name; empty for the default user"),
		hidden(one("redis.password", text(), "", func(c *Config) *string { return &c.Redis.Password },
			"password of redis.username; empty for none")),
		one("redis.db", number(0, maxInt32), "0", func(c *Config) *int { return &c.Redis.DB },
			"database number; 0 in a cluster"),
		one("redis.key_prefix", text(), "smshooks:", func(c *Config) *string { return &c.Redis.KeyPrefix },
			"prefix of every key in Redis"),
		one("redis.sentinel.username", text(), "", func(c *Config) *string { return &c.Redis.Sentinel.Username },
			"user name at the Sentinels; empty for the default user"),
		hidden(one("redis.sentinel.password", text(), "", func(c *Config) *string { return &c.Redis.Sentinel.Password },
			"password of redis.sentinel.username; empty for none")),
	}, tlsTable("redis.tls", "Redis and the Sentinels", func(c *Config) *TLS { return &c.Redis.TLS }))
}

func listenTable() []setting {
	return []setting{
		one("api.addr", address(0), "127.0.0.1:8080", func(c *Config) *string { return &c.API.Addr },
			"address that the API listens on; port 0 for any free port"),
		one("api.rate", number(0, maxInt32), "50", func(c *Config) *int { return &c.API.Rate },
			"requests per second for each API key; 0 for no limit"),
		one("api.max_connections", number(1, maxInt32), "1000", func(c *Config) *int { return &c.API.MaxConnections },
			"connections that the API listener keeps open; at the limit, a new one replaces the one that was idle longest"),
		one("api.replay_limit", number(0, maxInt32), "10000", func(c *Config) *int { return &c.API.ReplayLimit },
			"events that a user may replay per hour through the API and the account page; 0 for no limit"),
		many("api.trusted_proxies", network(), "", func(c *Config) *[]netip.Prefix { return &c.API.TrustedProxies }, nil,
			"networks (CIDR) of the proxies in front of the API; for requests through them the client is the last untrusted address in X-Forwarded-For"),
		one("ops.addr", address(0), "127.0.0.1:9464", func(c *Config) *string { return &c.Ops.Addr },
			"address that serves /metrics, /healthz, /readyz, /loglevel and /debug/pprof/; port 0 for any free port"),
	}
}

func dispatchTable() []setting {
	return []setting{
		one("dispatch.parallel", number(1, maxInt32), "3", func(c *Config) *int { return &c.Dispatch.Parallel },
			"requests in flight per endpoint"),
		one("dispatch.timeout", duration(), "10s", func(c *Config) *time.Duration { return &c.Dispatch.Timeout },
			"time limit of one request, from dial to the last byte of the reply"),
		one("dispatch.success", choice("200", "2xx"), "200", func(c *Config) *string { return &c.Dispatch.Success },
			"HTTP statuses that count as delivered: 200 or 2xx"),
		one("dispatch.max_in_flight", number(1, maxInt32), "2000", func(c *Config) *int { return &c.Dispatch.MaxInFlight },
			"requests in flight in this process; at least dispatch.parallel"),
		one("dispatch.queue_per_endpoint", number(1, maxInt32), "1024", func(c *Config) *int { return &c.Dispatch.QueuePerEndpoint },
			"events buffered for one endpoint; further ones go to an overflow topic"),
		one("dispatch.max_buffered_bytes", byteSize(mebibyte, math.MaxInt64), "67108864", func(c *Config) *int64 { return &c.Dispatch.MaxBufferedBytes },
			"bytes of records buffered in this process, with or without a unit (64MiB); at least 1MiB"),
		many("dispatch.allow_networks", network(), "", func(c *Config) *[]netip.Prefix { return &c.Dispatch.AllowNetworks }, nil,
			"networks (CIDR) that webhooks may reach although they are blocked by default: loopback, private, link-local and others"),
		many("dispatch.deny_networks", network(), "", func(c *Config) *[]netip.Prefix { return &c.Dispatch.DenyNetworks }, nil,
			"networks (CIDR) that webhooks may not reach, even if dispatch.allow_networks names them"),
		many("dispatch.nat64_prefixes", nat64(), "", func(c *Config) *[]netip.Prefix { return &c.Dispatch.NAT64Prefixes }, nil,
			"prefixes of your NAT64 gateways, in addition to 64:ff9b::/96; the embedded IPv4 address is checked too"),
		many("dispatch.ports", portRange(), "", func(c *Config) *[]PortRange { return &c.Dispatch.Ports }, nil,
			"ports that webhooks may reach: numbers and ranges (443,8000-8999); empty for all"),
	}
}

func timeTable() []setting {
	return []setting{
		many("retry.schedule", step(), "6h,6h", func(c *Config) *[]time.Duration { return &c.Retry.Schedule }, fewDelays,
			"delays after the first, second, … failure; there is one attempt more than delays"),
		many("retry.drain", step(), "", func(c *Config) *[]time.Duration { return &c.Retry.Drain }, nil,
			"previous delays: their topics are still read until they are empty, but no longer written to"),
		one("retry.window", step(), "24h", func(c *Config) *time.Duration { return &c.Retry.Window },
			"longest time from an event to the start of an attempt; also how long an event of a paused endpoint is kept"),
		many("overflow.delays", step(), "10s,1m,5m,30m", func(c *Config) *[]time.Duration { return &c.Overflow.Delays }, ascending,
			"delays of the overflow topics for events of slow endpoints, ascending"),
		many("overflow.drain", step(), "", func(c *Config) *[]time.Duration { return &c.Overflow.Drain }, nil,
			"previous tiers: their topics are still read until they are empty, but no longer written to"),
		many("paused.drain", step(), "", func(c *Config) *[]time.Duration { return &c.Paused.Drain }, nil,
			"previous values of retry.window: their paused topics are still read until they are empty, but no longer written to"),
		one("revocation.interval", duration(), "1m", func(c *Config) *time.Duration { return &c.Revocation.Interval },
			"a user's revoked clicks are sent at multiples of this interval; "+
				"longer than 5m needs other alerts: SmshooksSourceLate in the runbook"),
		one("revocation.max_ids", number(1, maxInt32), "10000", func(c *Config) *int { return &c.Revocation.MaxIDs },
			"largest number of ids in one batch"),
		one("click.remember", duration(), "720h", func(c *Config) *time.Duration { return &c.Click.Remember },
			"how long the first click of a message is remembered"),
	}
}

func processTable() []setting {
	return []setting{
		one("shutdown.grace", duration(), "15s", func(c *Config) *time.Duration { return &c.Shutdown.Grace },
			"time that a stop waits for requests in flight"),
		one("log.level", choice("debug", "info", "warn", "error"), "info", func(c *Config) *string { return &c.Log.Level },
			"debug, info, warn or error; PUT /loglevel at ops.addr changes it at run time"),
		one("log.format", choice("", "json", "console"), "", func(c *Config) *string { return &c.Log.Format },
			"json or console; empty for console on a terminal, else json"),
		one("tracing.endpoint", optional(collector()), "", func(c *Config) *string { return &c.Tracing.Endpoint },
			"URL of the OpenTelemetry collector that receives spans by OTLP over HTTP (http://collector:4318); empty for no tracing"),
		one("tracing.sample", ratio(), "0.01", func(c *Config) *float64 { return &c.Tracing.Sample },
			"share of records without a traceparent header that are traced, from 0 to 1; with the header, its sampled flag decides"),
		hidden(one("secrets.key", key(), "", func(c *Config) *[]byte { return &c.Secrets.Key },
			"base64 of 32 bytes that encrypt users' credentials and signing secrets at rest; empty to store them in clear text")),
		hidden(many("secrets.previous_keys", key(), "", func(c *Config) *[][]byte { return &c.Secrets.PreviousKeys }, noEmptyKey,
			"previous values of secrets.key, still used for reading; not needed after smshooks secrets reseal")),
		hidden(one("portal.secret", longKey(), "", func(c *Config) *[]byte { return &c.Portal.Secret },
			"base64 of 32 bytes or more, with which your own site signs the tokens that open the account page; empty for API keys only")),
		one("embedded.kafka_addr", loopback(), "127.0.0.1:19092", func(c *Config) *string { return &c.Embedded.KafkaAddr },
			"loopback address of the Kafka of smshooks serve --embedded; port 0 for any free port"),
		one("embedded.redis_addr", loopback(), "127.0.0.1:16379", func(c *Config) *string { return &c.Embedded.RedisAddr },
			"loopback address of the Redis of smshooks serve --embedded; port 0 for any free port"),
		one("embedded.dir", filled(), "smshooks-data", func(c *Config) *string { return &c.Embedded.Dir },
			"directory of the data of smshooks serve --embedded"),
	}
}

// Package config reads, validates and prints settings.
//
// One table (settings.go) names every setting with its default, meaning and
// parser. Defaults, flags, environment variables, the printed YAML and
// docs/configuration.md all follow from it.
package config

import (
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/smshooks/smshooks/internal/topics"
)

// Config holds every setting, parsed and checked. Load and Defaults return one. docs/configuration.md lists the default
// of each field.
type Config struct {
	Kafka      Kafka
	Topics     Topics
	Redis      Redis
	API        API
	Ops        Ops
	Dispatch   Dispatch
	Retry      Retry
	Overflow   Overflow
	Paused     Paused
	Revocation Revocation
	Click      Click
	Shutdown   Shutdown
	Log        Log
	Tracing    Tracing
	Secrets    Secrets
	Portal     Portal
	Embedded   Embedded

	origins map[string]origin // by setting; absent = the default
	flags   []string          // see Flags
}

// Kafka configures the connections to the brokers and the consumer group.
type Kafka struct {
	Brokers        []string // host:port, at least one
	Group          string
	InstanceID     string        // "" = dynamic membership
	SessionTimeout time.Duration // silence after which a member loses its partitions
	Isolation      string        // read_committed or read_uncommitted
	MaxBatchBytes  int64         // bytes, uncompressed
	Rack           string        // of this process, "" = unknown
	GroupProtocol  string        // classic or consumer
	TLS            TLS
	SASL           KafkaSASL
}

// TLS configures encrypted connections. CertFile and KeyFile are both set or
// both empty. Files are set only if Enabled is true.
type TLS struct {
	Enabled            bool
	CAFile             string // "" = the system's authorities
	CertFile           string
	KeyFile            string
	ServerName         string // "" = the host dialled
	InsecureSkipVerify bool
}

// KafkaSASL holds the credentials for the brokers. Username and Password are set exactly
// when Mechanism is PLAIN or SCRAM, and OAuth when it is OAUTHBEARER.
type KafkaSASL struct {
	Mechanism string // "", PLAIN, SCRAM-SHA-256, SCRAM-SHA-512, OAUTHBEARER or AWS_MSK_IAM
	Username  string
	Password  string
	OAuth     KafkaOAuth
}

// KafkaOAuth is the source of the token: TokenFile, or TokenURL with a
// client's id and secret.
type KafkaOAuth struct {
	TokenURL     string
	ClientID     string
	ClientSecret string
	Scope        string // scopes separated by spaces, "" = the server's default
	TokenFile    string
}

// Topics holds the names of the topics, and the layout of new ones. The names of
// delay topics derive from them. All names are legal and distinct.
type Topics struct {
	DLR         string
	Click       string
	Inbound     string
	Revocation  string
	Config      string
	Keys        string
	DeadLetter  string
	Events      string
	Releases    string
	Ensure      bool
	Partitions  int
	Replication int // -1 = the broker's default
	Epoch       string
}

// Redis configures the connections to one server, Sentinel (MasterName is set) or
// a cluster (Cluster is true).
type Redis struct {
	Addrs      []string // host:port, at least one
	MasterName string
	Cluster    bool
	Username   string
	Password   string
	DB         int
	TLS        TLS
	Sentinel   RedisSentinel
	KeyPrefix  string
}

// RedisSentinel holds the credentials for the Sentinels. It is empty without
// MasterName.
type RedisSentinel struct {
	Username string // "" = the default user
	Password string // "" = no authentication
}

// API is the customers' HTTP API.
type API struct {
	Addr string // host:port; port 0 = any free one
	Rate int    // requests per second for each API key; 0 = no limit

	MaxConnections int            // connections that the listener keeps open
	ReplayLimit    int            // dead letters that a user may replay per hour, 0 = no limit
	TrustedProxies []netip.Prefix // proxies whose X-Forwarded-For is trusted
}

// Ops is the operations listener.
type Ops struct {
	Addr string // host:port; port 0 = any free one
}

// Dispatch limits the sending of webhooks.
type Dispatch struct {
	Parallel         int           // requests in flight per endpoint
	Timeout          time.Duration // of one request
	Success          string        // "200" or "2xx"
	MaxInFlight      int           // requests in flight per process, at least Parallel
	QueuePerEndpoint int           // events buffered per endpoint
	MaxBufferedBytes int64         // bytes of records buffered per process
	AllowNetworks    []netip.Prefix
	DenyNetworks     []netip.Prefix // refused, even if AllowNetworks holds them
	NAT64Prefixes    []netip.Prefix // besides 64:ff9b::/96
	Ports            []PortRange    // empty = all
}

// PortRange is a range of ports from First to Last, both included.
type PortRange struct{ First, Last uint16 }

// Retry is the schedule of the attempts after a failure.
type Retry struct {
	Schedule []time.Duration // whole milliseconds; empty = one attempt only
	Drain    []time.Duration // previous delays whose topics are still read
	Window   time.Duration   // from the event time to the start of the last attempt; whole milliseconds
}

// Overflow lists the delays of the overflow topics.
type Overflow struct {
	Delays []time.Duration // whole milliseconds, ascending, at least one
	Drain  []time.Duration // previous delays whose topics are still read
}

// Paused lists the paused topics to read besides those of Retry.Window.
type Paused struct {
	Drain []time.Duration // previous windows whose topics are still read
}

// Revocation limits the batches of revoked clicks.
type Revocation struct {
	Interval time.Duration // between the batches of a user
	MaxIDs   int           // ids per batch
}

// Click configures the memory of first clicks.
type Click struct {
	Remember time.Duration // how long, from the click
}

// Shutdown limits the time of a shutdown.
type Shutdown struct {
	Grace time.Duration // for requests in flight and everything else
}

// Log configures what is written to stderr.
type Log struct {
	Level  string // debug, info, warn or error
	Format string // json, console, or "" = console on a terminal, else json
}

// Tracing configures the export of spans.
type Tracing struct {
	Endpoint string  // URL of an OTLP/HTTP collector, "" = no tracing
	Sample   float64 // share of the records without a traceparent: 0 to 1
}

// Secrets holds the keys that encrypt users' credentials.
type Secrets struct {
	Key          []byte   // 32 bytes, or nil = credentials are stored in clear
	PreviousKeys [][]byte // 32 bytes each; used for reading only
}

// Portal configures the sign-in to the account page from the platform's own site.
type Portal struct {
	Secret []byte // at least 32 bytes, or nil = only API keys sign in
}

// Embedded configures Kafka and Redis inside the process.
type Embedded struct {
	KafkaAddr string // loopback host:port; port 0 = any free one
	RedisAddr string // likewise
	Dir       string // of their data
}

// Defaults returns the default settings.
func Defaults() *Config {
	c := &Config{}
	for _, s := range table() {
		if err := s.set(c, s.texts()); err != nil {
			panic("config: default of " + s.name + ": " + err.Error())
		}
	}
	return c
}

// TopicPlan returns the set of topics that follows from the settings.
func (c *Config) TopicPlan() *topics.Plan {
	t := c.Topics
	return topics.New(topics.Settings{
		DLR: t.DLR, Click: t.Click, Inbound: t.Inbound, Revocation: t.Revocation, Config: t.Config, Keys: t.Keys,
		DeadLetter: t.DeadLetter, Events: t.Events, Releases: t.Releases,
		Schedule: c.Retry.Schedule, Tiers: c.Overflow.Delays, DrainSchedule: c.Retry.Drain, DrainTiers: c.Overflow.Drain,
		DrainWindows: c.Paused.Drain,
		Window:       c.Retry.Window, Partitions: int32(t.Partitions), Replication: int16(t.Replication),
	})
}

// Flags returns the flags that were given, quoted for a shell, so that another command can use the same settings. It
// leaves out secrets.
func (c *Config) Flags() []string { return c.flags }

// Given returns the names of the settings that were set, even to their default, and begin with one of prefixes.
func (c *Config) Given(prefixes ...string) (names []string) {
	for _, s := range table() {
		begins := func(prefix string) bool { return strings.HasPrefix(s.name, prefix) }
		if c.origins[s.name] != (origin{}) && slices.ContainsFunc(prefixes, begins) {
			names = append(names, s.name)
		}
	}
	return names
}

// Origin returns where the setting of that dotted name came from: `default`,
// `file x.yaml`, `environment variable SMSHOOKS_…` or `flag --…`.
func (c *Config) Origin(name string) string {
	return c.origins[name].String()
}

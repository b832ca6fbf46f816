// Package kafka builds clients (TLS, SASL, dialer), checks topics, classifies errors by type.
//
// A [Plan] holds the names of every topic the service reads and writes; [Plan.Check] compares it with
// the broker and [Plan.Ensure] creates what is missing.
package kafka

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net"
	"strconv"
	"strings"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/sasl"
	"go.uber.org/zap"

	"github.com/smshooks/smshooks/internal/tlsfiles"
)

const (
	// dialTimeout bounds name resolution, the TCP handshake and the TLS handshake together.
	dialTimeout = 10 * time.Second

	// What one client may buffer is fetches in flight times their size, which grows tenfold when it is unpacked, plus one
	// batch that is read by itself (batch.go). The client's own defaults (50 MiB each, 1 GiB unpacked) would break any
	// bound on memory.
	fetchMaxBytes        = 1 << 20
	fetchPartitionBytes  = 256 << 10
	maxConcurrentFetches = 4
	fetchMaxWait         = 250 * time.Millisecond

	// metadataMaxAge is how soon a client learns of partitions that were added.
	metadataMaxAge = 10 * time.Second
)

// Config configures clients. The zero values of all fields except Brokers are usable.
type Config struct {
	// Brokers are host:port pairs (port 9092 if absent); one that answers is enough.
	Brokers []string
	TLS     *tlsfiles.Files // nil for connections without TLS
	SASL    sasl.Mechanism  // see [NewSASL]; nil for connections without authentication
	// Rack is where this process runs: consumers then fetch from a replica in the same rack (KIP-392). "" for any.
	Rack string
	// Dial opens a plain connection; TLS is put on top of it. nil is a net.Dialer.
	Dial func(ctx context.Context, network, addr string) (net.Conn, error)
	// Log receives the client's warnings and errors. nil discards them.
	Log *zap.Logger
	// Outages reports the brokers that cannot be used. nil reports nothing.
	Outages *Outages
	// Context ends what clients wait for, their Close included; nil never does.
	Context context.Context
	// PaceFetches spaces the fetches of one broker by some milliseconds, so that a stream arrives in bunches.
	PaceFetches bool
	// ReadUncommitted also reads records of transactions that are open or aborted.
	ReadUncommitted bool
	// MaxBatchBytes is the most that a batch may unpack to; larger ones are skipped. 0 is [DefaultMaxBatchBytes].
	MaxBatchBytes int64
	// Skips reports the batches that are skipped; nil logs them to Log.
	Skips *Skips

	dialTimeout time.Duration // 0: dialTimeout
}

// NewClient builds a client from c; extra options come last and win. It dials nothing: an unreachable broker shows at
// the first request (see [IsUnavailable]). An error names the setting that is wrong.
func (c Config) NewClient(extra ...kgo.Opt) (*kgo.Client, error) {
	opts, err := c.options()
	if err != nil {
		return nil, err
	}
	cl, err := kgo.NewClient(append(opts, extra...)...)
	if err != nil {
		return nil, fmt.Errorf("kafka client: %w", err)
	}
	return cl, nil
}

func (c Config) options() ([]kgo.Opt, error) {
	if len(c.Brokers) == 0 {
		return nil, errors.New("kafka.brokers: at least one host:port is needed")
	}
	for _, broker := range c.Brokers {
		if !validBroker(broker) {
			return nil, fmt.Errorf("kafka.brokers: %q is not host:port", broker)
		}
	}
	dial, hooks := c.dialer(), []kgo.Hook(nil)
	if c.PaceFetches {
		pacer := new(pacer)
		dial, hooks = pacer.over(dial), append(hooks, pacer)
	}
	unpack, err := c.unpacker()
	if err != nil {
		return nil, err
	}
	isolation := readCommitted
	if c.ReadUncommitted {
		isolation = readUncommitted
	}
	opts := []kgo.Opt{
		kgo.SeedBrokers(c.Brokers...),
		kgo.ClientID("smshooks"),
		// A proxy in front of a restarting broker accepts connections and closes them, although no setting is wrong.
		kgo.AlwaysRetryEOF(),
		kgo.Dialer(dial),
		kgo.FetchMaxBytes(fetchMaxBytes),
		kgo.FetchMaxPartitionBytes(fetchPartitionBytes),
		kgo.MaxConcurrentFetches(maxConcurrentFetches),
		kgo.FetchMaxWait(fetchMaxWait),
		kgo.MetadataMaxAge(metadataMaxAge),
		kgo.DisableClientMetrics(), // of which a client that closes sends the last ones, for a second
		kgo.BrokerMaxReadBytes(maxResponseBytes),
		kgo.WithDecompressor(unpack), kgo.WithHooks(append(hooks, unpack)...),
		kgo.FetchIsolationLevel(isolation.level()),
	}
	if c.Context != nil {
		opts = append(opts, kgo.WithContext(c.Context))
	}
	if c.SASL != nil {
		opts = append(opts, kgo.SASL(c.SASL))
	}
	if c.Rack != "" {
		opts = append(opts, kgo.Rack(c.Rack))
	}
	if c.Log != nil {
		opts = append(opts, kgo.WithLogger(newLogger(c.Log)))
	}
	if c.Outages != nil {
		opts = append(opts, kgo.WithHooks(connectHook(c.Outages.connected)))
	}
	return opts, nil
}

func (c Config) unpacker() (*unpacker, error) {
	skips := c.Skips
	if skips == nil {
		log := c.Log
		if log == nil {
			log = zap.NewNop()
		}
		skips = NewSkips(log, nil)
	}
	most := c.MaxBatchBytes
	if most == 0 {
		most = DefaultMaxBatchBytes
	}
	return newUnpacker(most, skips)
}

// validBroker accepts host, host:port and [IPv6]:port. The client itself would only fail at each dial.
func validBroker(broker string) bool {
	host, port, err := net.SplitHostPort(broker)
	if err != nil {
		host, port, err = net.SplitHostPort(broker + ":9092")
	}
	number, portErr := strconv.ParseUint(port, 10, 16)
	return err == nil && portErr == nil && number > 0 && host != "" && !strings.ContainsAny(host, " /@")
}

// dialer adds the timeout and TLS to the plain dialer, so that a caller's own dialer
// (an in-memory network, a proxy) works with TLS as well.
func (c Config) dialer() tlsfiles.Dial {
	dial := c.Dial
	if dial == nil {
		dial = (&net.Dialer{}).DialContext
	}
	dial = c.TLS.Over(dial)
	return func(ctx context.Context, network, addr string) (net.Conn, error) {
		ctx, cancel := context.WithTimeout(ctx, cmp.Or(c.dialTimeout, dialTimeout))
		defer cancel()
		return dial(ctx, network, addr)
	}
}

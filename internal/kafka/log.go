package kafka

import (
	"context"
	"errors"
	"fmt"
	"net"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"
	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"

	"github.com/smshooks/smshooks/internal/outage"
)

// Outages logs for all clients of one cluster when a broker becomes unusable and when it is usable again, however often
// each client tries in between. It is safe for concurrent use.
type Outages struct {
	log *zap.Logger

	mu sync.Mutex
	of map[string]*outage.Outage // by broker
}

// NewOutages returns Outages that are logged to log.
func NewOutages(log *zap.Logger) *Outages {
	return &Outages{log: log, of: map[string]*outage.Outage{}}
}

func (o *Outages) broker(addr string) *outage.Outage {
	o.mu.Lock()
	defer o.mu.Unlock()
	t := o.of[addr]
	if t == nil {
		t = outage.New(o.log.With(zap.String("broker", addr)), "cannot use a Kafka broker; retrying",
			"the Kafka broker can be used again")
		o.of[addr] = t
	}
	return t
}

// connected is called after each attempt to connect: dial, TLS, versions, login.
func (o *Outages) connected(meta kgo.BrokerMetadata, err error) {
	t := o.broker(net.JoinHostPort(meta.Host, strconv.Itoa(int(meta.Port))))
	switch {
	case err == nil:
		t.Recover()
	case errors.Is(err, context.Canceled), errors.Is(err, kgo.ErrClientClosed), errors.Is(err, net.ErrClosed):
	default:
		t.Fail(Explain(err))
	}
}

// connectHook is called after each attempt to connect.
type connectHook func(meta kgo.BrokerMetadata, err error)

// OnBrokerConnect implements kgo.HookBrokerConnect.
func (h connectHook) OnBrokerConnect(meta kgo.BrokerMetadata, _ time.Duration, _ net.Conn, err error) {
	h(meta, err)
}

// reported lists prefixes of messages that the client repeats while something fails. They are reported once elsewhere:
// by Outages, by the group's hooks, by the poll, or by the caller.
var reported = []string{
	"unable to open connection to broker", "read from broker", "unable to request api versions",
	"unable to initialize sasl",
	"group manage loop errored", "join group failed", "sync group failed", "fetch offsets",
	"received an OffsetCommitResponse",
	"unable to load producer ID", "random error while producing", "produce partition load error", "metadata has a new ID",
	"batch decompresses larger", "unable to commit offset", "fetch response has unexpected top-level error",
}

// quiet is the time for which a repeated message of the client is not logged.
const quiet = 10 * time.Minute

// logger passes the client's warnings and errors to zap: those reported elsewhere at debug level, the first of any
// other unchanged. The client logs addresses, topics, offsets and errors, never records or credentials.
type logger struct {
	log   *zap.Logger
	first func() *zap.Logger // logs a repeated message now and then; made when needed: it takes half a megabyte
}

func newLogger(log *zap.Logger) *logger {
	log = log.WithOptions(zap.WithCaller(false), zap.AddStacktrace(zapcore.FatalLevel))
	return &logger{log, sync.OnceValue(func() *zap.Logger {
		return log.WithOptions(zap.WrapCore(func(core zapcore.Core) zapcore.Core {
			return zapcore.NewSamplerWithOptions(core, quiet, 1, 0)
		}))
	})}
}

func (*logger) Level() kgo.LogLevel { return kgo.LogLevelWarn }

func (l *logger) Log(level kgo.LogLevel, msg string, keyvals ...any) {
	at := zapcore.WarnLevel
	switch level {
	case kgo.LogLevelWarn:
	case kgo.LogLevelError:
		at = zapcore.ErrorLevel
	default:
		return
	}
	log := l.log
	if slices.ContainsFunc(reported, func(beginning string) bool { return strings.HasPrefix(msg, beginning) }) {
		at = zapcore.DebugLevel
	} else {
		log = l.first()
	}
	entry := log.Check(at, msg)
	if entry == nil {
		return
	}
	fields := make([]zap.Field, 0, len(keyvals)/2)
	for i := 0; i+1 < len(keyvals); i += 2 {
		fields = append(fields, zap.Any(fmt.Sprint(keyvals[i]), keyvals[i+1]))
	}
	entry.Write(fields...)
}

package app

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net/http"
	"os"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/redis/go-redis/v9"
	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"

	"github.com/smshooks/smshooks/config"
	"github.com/smshooks/smshooks/internal/metrics"
)

// NewLogger returns a logger that writes JSON to out, or readable lines to a terminal. Repeated lines are sampled.
func NewLogger(cfg config.Log, out *os.File) (*zap.Logger, error) {
	log, _, err := newLogger(cfg, output{out, func() {}}, isTerminal(out),
		func(zapcore.Entry, zapcore.SamplingDecision) {})
	return log, err
}

// NewServiceLogger is like NewLogger. It also counts dropped lines at reg, and returns the level, which may be
// changed at any time.
func NewServiceLogger(cfg config.Log, out *os.File, reg prometheus.Registerer) (*zap.Logger, *zap.AtomicLevel, error) {
	dropped := metrics.LogLinesDropped(reg)
	return newLogger(cfg, output{out, dropped.Inc}, isTerminal(out),
		func(_ zapcore.Entry, decision zapcore.SamplingDecision) {
			if decision&zapcore.LogDropped != 0 {
				dropped.Inc()
			}
		})
}

// output writes log lines. A line that cannot be written, because the reader of stderr has ended, is dropped and
// counted. It is never an error.
type output struct {
	*os.File
	lost func()
}

func (o output) Write(line []byte) (int, error) {
	if _, err := o.File.Write(line); err != nil {
		o.lost()
	}
	return len(line), nil
}

// Sync does nothing: lines are not buffered.
func (o output) Sync() error { return nil }

func newLogger(cfg config.Log, out zapcore.WriteSyncer, terminal bool,
	sampled func(zapcore.Entry, zapcore.SamplingDecision)) (*zap.Logger, *zap.AtomicLevel, error) {
	level, err := zap.ParseAtomicLevel(cfg.Level)
	if err != nil {
		return nil, nil, fmt.Errorf("log.level: %w", err)
	}
	encoding := zap.NewProductionEncoderConfig()
	encoding.TimeKey = "time"
	encoding.EncodeTime = zapcore.ISO8601TimeEncoder
	encoding.EncodeDuration = zapcore.StringDurationEncoder
	encoder := zapcore.NewJSONEncoder(encoding)
	if cfg.Format == "console" || cfg.Format == "" && terminal {
		encoding.EncodeLevel = zapcore.CapitalLevelEncoder
		encoding.EncodeTime = zapcore.TimeEncoderOfLayout("15:04:05.000")
		encoder = zapcore.NewConsoleEncoder(encoding)
	}
	core := zapcore.NewCore(encoder, zapcore.Lock(out), level)
	return zap.New(zapcore.NewSamplerWithOptions(core, time.Second, 20, 1000, zapcore.SamplerHook(sampled))), &level, nil
}

// levelHandler returns the level on GET and sets it on PUT. A change is logged as a warning.
func levelHandler(level *zap.AtomicLevel, log *zap.Logger) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, 4<<10))
		if err != nil {
			http.Error(w, err.Error(), http.StatusBadRequest)
			return
		}
		r.Body = io.NopCloser(bytes.NewReader(body))
		if bytes.HasPrefix(bytes.TrimSpace(body), []byte("{")) {
			r.Header.Set("Content-Type", "application/json") // curl -d declares it as a form
		}
		before := level.Level()
		level.ServeHTTP(w, r)
		if after := level.Level(); after != before {
			log.Warn("log level changed", zap.Stringer("from", before), zap.Stringer("to", after))
		}
	}
}

func isTerminal(f *os.File) bool {
	info, err := f.Stat()
	return err == nil && info.Mode()&os.ModeCharDevice != 0
}

// redisLog logs the messages of the Redis client at debug level. They repeat as long as something fails, which
// redisOutage reports once.
type redisLog struct{ log *zap.Logger }

func (l redisLog) Printf(_ context.Context, format string, v ...any) {
	if entry := l.log.Check(zapcore.DebugLevel, "redis client"); entry != nil {
		entry.Write(zap.String("message", fmt.Sprintf(format, v...)))
	}
}

func useRedisLog(log *zap.Logger) { redis.SetLogger(redisLog{log}) }

package kafka

import (
	"fmt"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"
	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
)

const (
	logEvery = 10 * time.Second
	logFirst = 5
)

// logger hands the client's warnings and errors to zap. The client logs addresses, topics, offsets
// and errors, never records or credentials.
type logger struct{ log *zap.Logger }

// newLogger also thins the lines: a broker that is away makes the client repeat itself for every
// connection it tries.
func newLogger(log *zap.Logger) *logger {
	thin := func(core zapcore.Core) zapcore.Core {
		return zapcore.NewSamplerWithOptions(core, logEvery, logFirst, 0)
	}
	return &logger{log: log.WithOptions(zap.WrapCore(thin), zap.WithCaller(false), zap.AddStacktrace(zapcore.FatalLevel))}
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
	entry := l.log.Check(at, msg)
	if entry == nil {
		return
	}
	fields := make([]zap.Field, 0, len(keyvals)/2)
	for i := 0; i+1 < len(keyvals); i += 2 {
		fields = append(fields, zap.Any(fmt.Sprint(keyvals[i]), keyvals[i+1]))
	}
	entry.Write(fields...)
}

package embedded

import (
	"fmt"
	"sync"

	"github.com/twmb/franz-go/pkg/kfake"
	"go.uber.org/zap"
)

// kafkaLog passes kfake's warnings and errors to zap. kfake reports a failed save only in its log, so
// the first error after watch is kept.
type kafkaLog struct {
	log *zap.Logger

	mu       sync.Mutex
	watching bool
	first    error
}

// Logf implements kfake.Logger.
func (l *kafkaLog) Logf(level kfake.LogLevel, format string, args ...any) {
	if level > kfake.LogLevelWarn {
		return
	}
	text := fmt.Sprintf(format, args...)
	if level == kfake.LogLevelWarn {
		l.log.Warn(text)
		return
	}
	l.log.Error(text)
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.watching && l.first == nil {
		l.first = fmt.Errorf(format, args...)
	}
}

func (l *kafkaLog) watch() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.watching = true
}

func (l *kafkaLog) failure() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.first
}

package app

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"strings"
	"sync/atomic"
	"time"

	"github.com/redis/go-redis/v9"
	"go.uber.org/zap"

	"github.com/smshooks/smshooks/internal/outage"
	"github.com/smshooks/smshooks/internal/tlsfiles"
)

// redisQuiet is how long no command may fail before an outage counts as ended. One node of a cluster may fail while the
// others answer, and a command that Redis refuses may fail only when readiness is checked, each readinessPause.
const redisQuiet = readinessPause + 3*time.Second

// redisOutage is a hook of the Redis client that logs when Redis begins to fail and when it has recovered.
type redisOutage struct {
	outage *outage.Outage
	failed atomic.Int64 // Unix ms of the last failure
}

func newRedisOutage(log *zap.Logger) *redisOutage {
	return &redisOutage{outage: outage.New(log, "cannot use Redis; retrying", "Redis works again")}
}

// DialHook implements redis.Hook.
func (o *redisOutage) DialHook(next redis.DialHook) redis.DialHook { return next }

// ProcessHook implements redis.Hook.
func (o *redisOutage) ProcessHook(next redis.ProcessHook) redis.ProcessHook {
	return func(ctx context.Context, cmd redis.Cmder) error {
		err := next(ctx, cmd)
		o.answered(err)
		return err
	}
}

// ProcessPipelineHook implements redis.Hook.
func (o *redisOutage) ProcessPipelineHook(next redis.ProcessPipelineHook) redis.ProcessPipelineHook {
	return func(ctx context.Context, cmds []redis.Cmder) error {
		err := next(ctx, cmds)
		o.answered(err)
		return err
	}
}

func (o *redisOutage) answered(err error) {
	if errors.Is(err, context.Canceled) || errors.Is(err, redis.ErrClosed) {
		return
	}
	if failure := explainRedis(err); failure != nil {
		o.failed.Store(time.Now().UnixMilli())
		o.outage.Fail(failure)
		return
	}
	if last := o.failed.Load(); last != 0 && time.Since(time.UnixMilli(last)) > redisQuiet {
		o.failed.Store(0)
		o.outage.Recover()
	}
}

// explainRedis returns why Redis could not serve a command, with the setting to check. It returns nil if Redis
// answered, also with an error that is about the command itself.
func explainRedis(err error) error {
	if err == nil || errors.Is(err, redis.Nil) {
		return nil
	}
	var (
		reply   redis.Error
		shake   *tlsfiles.HandshakeError
		dns     *net.DNSError
		timeout net.Error
	)
	explain := func(setting, advice string) error { return fmt.Errorf("%s: %w (%s)", setting, err, advice) }
	switch {
	case errors.As(err, &shake):
		return explain("redis.tls", "check that the port speaks TLS and that the certificate matches")
	case errors.As(err, &reply):
		switch code, _, _ := strings.Cut(reply.Error(), " "); code {
		case "WRONGPASS", "NOAUTH":
			return explain("redis.password", "Redis rejects the login: check redis.password and redis.username")
		case "NOPERM":
			return explain("redis.username", "the Redis user lacks a right")
		case "ERR":
			if strings.Contains(err.Error(), "AUTH") {
				return explain("redis.password", "Redis expects none")
			}
		}
		return nil
	case strings.Contains(err.Error(), "remote error: tls:"): // TLS 1.3 refuses a client only after its handshake
		return explain("redis.tls", "Redis rejects the client certificate: check redis.tls.cert_file and redis.tls.key_file")
	case errors.As(err, &dns):
		return explain("redis.addrs", "check the host name")
	case errors.Is(err, context.DeadlineExceeded), errors.Is(err, os.ErrDeadlineExceeded),
		errors.As(err, &timeout) && timeout.Timeout():
		return explain("redis.addrs", "no answer in time: check that Redis runs at this address and port")
	case strings.HasPrefix(err.Error(), "redis: invalid reply"), strings.HasPrefix(err.Error(), "redis: can't parse"):
		return explain("redis.addrs", "the server at this address is not Redis: check the port")
	}
	return explain("redis.addrs", "check that Redis runs at this address and port")
}

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
		asked   *sentinelError
		shake   *tlsfiles.HandshakeError
		dns     *net.DNSError
		timeout net.Error
	)
	explain := func(setting, advice string) error { return fmt.Errorf("%s: %w (%s)", setting, err, advice) }
	switch {
	case errors.As(err, &shake):
		return explain("redis.tls", "check that the port speaks TLS and that the certificate matches")
	case errors.As(err, &asked):
		setting, advice := explainSentinel(asked.Error())
		return explain(setting, advice)
	case errors.As(err, &reply):
		if setting, advice := explainReply(reply.Error()); setting != "" {
			return explain(setting, advice)
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

// explainReply returns the setting that makes Redis refuse every command, and what to check; "" if an error reply is
// about the command itself.
func explainReply(text string) (setting, advice string) {
	code, said, _ := strings.Cut(text, " ")
	switch {
	case code == "WRONGPASS", code == "NOAUTH":
		return "redis.password", "Redis rejects the login: check redis.password and redis.username"
	case code == "NOPERM":
		return "redis.username", "the Redis user lacks a right"
	case code != "ERR":
	case strings.Contains(said, "AUTH"):
		return "redis.password", "Redis expects none"
	case strings.Contains(said, "DB index"), strings.HasPrefix(said, "SELECT"):
		return "redis.db", "Redis has no such database"
	case strings.Contains(said, "cluster support disabled"):
		return "redis.cluster", "the server at redis.addrs is not part of a cluster: leave it out, and give one address"
	}
	return "", ""
}

// explainSentinel does the same for what Sentinels answered. Their errors may be joined.
func explainSentinel(text string) (setting, advice string) {
	switch {
	case strings.Contains(text, "WRONGPASS"), strings.Contains(text, "AUTH"):
		return "redis.sentinel.password",
			"the Sentinels reject the login: check redis.sentinel.password and redis.sentinel.username"
	case strings.Contains(text, "NOPERM"):
		return "redis.sentinel.username", "the Sentinels' user lacks a right"
	case strings.Contains(text, redis.Nil.Error()):
		return "redis.master_name", "the Sentinels know no primary of this name"
	case strings.Contains(text, "unknown command"):
		return "redis.master_name", "the servers at redis.addrs are no Sentinels: leave the name out, or give their addresses"
	}
	return "redis.addrs", "check that Sentinels run at these addresses and ports"
}

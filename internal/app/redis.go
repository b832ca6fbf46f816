package app

import (
	"context"
	"net"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/redis/go-redis/v9/maintnotifications"

	"github.com/smshooks/smshooks/config"
	"github.com/smshooks/smshooks/internal/tlsfiles"
)

const (
	// redisTimeout bounds one call. The callers retry.
	redisTimeout = 500 * time.Millisecond
	// redisConnectTimeout bounds the query to the Sentinels, the dial and the TLS handshake together.
	redisConnectTimeout = 2 * time.Second
	// redisMapAge is how long a cluster's slot map is used before it is read again. A node that is gone cannot
	// redirect to its successor, so only a new map shows where its slots are.
	redisMapAge = time.Second
)

// newRedis returns a client of the server, of the Sentinels' primary or of the cluster. It does not dial yet. files
// is nil for connections without TLS.
func newRedis(cfg config.Redis, dial Dial, files *tlsfiles.Files) redis.UniversalClient {
	opts := &redis.UniversalOptions{
		Addrs: cfg.Addrs, MasterName: cfg.MasterName, DB: cfg.DB, Username: cfg.Username, Password: cfg.Password,
		SentinelUsername: cfg.Sentinel.Username, SentinelPassword: cfg.Sentinel.Password,
		Dialer: redisDialer(dial, files), DialTimeout: redisConnectTimeout, DialerRetries: 1,
		ContextTimeoutEnabled: true, ReadTimeout: redisTimeout, WriteTimeout: redisTimeout,
		MaxRetries: 1, DisableIdentity: true,
		// It needs a command that only some servers know and that the user's ACL would have to allow.
		MaintNotificationsConfig: &maintnotifications.Config{Mode: maintnotifications.ModeDisabled},
	}
	switch {
	case cfg.MasterName != "":
		return hookRedis(redis.NewFailoverClient(opts.Failover()))
	case cfg.Cluster || len(cfg.Addrs) > 1:
		cluster := opts.Cluster()
		cluster.ClusterStateReloadInterval = redisMapAge
		cluster.MaxRetries = -1 // the cluster client retries by itself, on other nodes too
		return hookRedis(redis.NewClusterClient(cluster))
	}
	return hookRedis(redis.NewClient(opts.Simple()))
}

// redisDialer bounds a dial by redisTimeout, which leaves time to try another server.
func redisDialer(dial Dial, files *tlsfiles.Files) Dial {
	if dial == nil {
		dial = (&net.Dialer{}).DialContext
	}
	return files.Over(func(ctx context.Context, network, addr string) (net.Conn, error) {
		ctx, cancel := context.WithTimeout(ctx, redisTimeout)
		defer cancel()
		return dial(ctx, network, addr)
	})
}

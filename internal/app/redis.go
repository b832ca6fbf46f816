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
	// redisTimeout bounds one call; what Redis does not answer by then waits and is asked again.
	redisTimeout = 500 * time.Millisecond
	// redisConnectTimeout bounds the search for a master at the Sentinels, the dial and the TLS handshake together.
	redisConnectTimeout = 2 * time.Second
	// redisMapAge is the age at which a cluster's map of slots is read anew. A node that is gone does not answer with the
	// name of its successor, so that only a new map shows where its slots are now.
	redisMapAge = time.Second
)

// newRedis returns a client of the server, the Sentinels' master or the cluster. It dials nothing yet. files is nil
// for connections without TLS.
func newRedis(cfg config.Redis, dial Dial, files *tlsfiles.Files) redis.UniversalClient {
	opts := &redis.UniversalOptions{
		Addrs: cfg.Addrs, MasterName: cfg.MasterName, DB: cfg.DB, Username: cfg.Username, Password: cfg.Password,
		SentinelUsername: cfg.Sentinel.Username, SentinelPassword: cfg.Sentinel.Password,
		Dialer: redisDialer(dial, files), DialTimeout: redisConnectTimeout, DialerRetries: 1,
		ContextTimeoutEnabled: true, ReadTimeout: redisTimeout, WriteTimeout: redisTimeout,
		MaxRetries: 1, DisableIdentity: true,
		// A command that only some servers know, and that a user's rights would have to include.
		MaintNotificationsConfig: &maintnotifications.Config{Mode: maintnotifications.ModeDisabled},
	}
	switch {
	case cfg.MasterName != "":
		return redis.NewFailoverClient(opts.Failover())
	case cfg.Cluster || len(cfg.Addrs) > 1:
		cluster := opts.Cluster()
		cluster.ClusterStateReloadInterval = redisMapAge
		cluster.MaxRetries = -1 // the cluster's client asks again by itself, and other nodes, too
		return redis.NewClusterClient(cluster)
	}
	return redis.NewClient(opts.Simple())
}

// redisDialer gives a server redisTimeout to accept a connection, so that one that is gone leaves time to ask another.
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

package app

import (
	"context"
	"errors"
	"net"

	"github.com/redis/go-redis/v9"
)

// redisConnect is a hook of every Redis client. It makes an error of the connection one of each command that needed it.
//
// The client tells what kind of error it has by its type. A server that refuses the login and Sentinels that do not
// know the primary answer with errors of a command's type, redis.Error or even redis.Nil. Then the commands of a
// pipeline have no error and zero values, and others seem to have found nothing.
type redisConnect struct{}

// hookRedis adds the hook to a client, and to those of a cluster's nodes.
func hookRedis(rdb redis.UniversalClient) redis.UniversalClient {
	rdb.AddHook(redisConnect{})
	if cluster, ok := rdb.(*redis.ClusterClient); ok {
		cluster.OnNewNode(func(node *redis.Client) { node.AddHook(redisConnect{}) })
	}
	return rdb
}

// sentinelError is what Sentinels answered instead of the address of the primary. It has no Unwrap, because the answer
// is not one to a command.
type sentinelError struct{ answer error }

func (e *sentinelError) Error() string { return e.answer.Error() }

// DialHook implements redis.Hook. Nothing but a Sentinel answers during a dial.
func (redisConnect) DialHook(next redis.DialHook) redis.DialHook {
	return func(ctx context.Context, network, addr string) (net.Conn, error) {
		conn, err := next(ctx, network, addr)
		if answer := redis.Error(nil); errors.As(err, &answer) {
			err = &sentinelError{err}
		}
		return conn, err
	}
}

// ProcessHook implements redis.Hook.
func (redisConnect) ProcessHook(next redis.ProcessHook) redis.ProcessHook { return next }

// ProcessPipelineHook implements redis.Hook.
func (redisConnect) ProcessPipelineHook(next redis.ProcessPipelineHook) redis.ProcessPipelineHook {
	return func(ctx context.Context, cmds []redis.Cmder) error {
		err := next(ctx, cmds)
		if err == nil {
			return nil
		}
		for _, cmd := range cmds {
			if cmd.Err() != nil {
				return err
			}
		}
		for _, cmd := range cmds {
			cmd.SetErr(err)
		}
		return err
	}
}

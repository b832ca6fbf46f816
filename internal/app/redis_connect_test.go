package app

import (
	"errors"
	"strings"
	"testing"

	"github.com/alicebob/miniredis/v2"
	"github.com/alicebob/miniredis/v2/server"
	"github.com/redis/go-redis/v9"

	"github.com/smshooks/smshooks/config"
)

// TestRefusedConnection checks that no command has a result if Redis or the Sentinels answer a new connection with an
// error, and that the error names the setting.
func TestRefusedConnection(t *testing.T) {
	const sentinel = "sentinel"
	for _, c := range []struct {
		name, on string // the command that is refused, if not the login
		refuse   func(*server.Peer)
		setting  string
	}{
		{"password", "", nil, "redis.password"},
		{"database", "select", func(c *server.Peer) { c.WriteError("ERR DB index is out of range") }, "redis.db"},
		{"no right to SELECT", "select", func(c *server.Peer) { c.WriteError("NOPERM no permissions to run 'select'") }, "redis.username"},
		{"unknown primary", sentinel, func(c *server.Peer) { c.WriteNull() }, "redis.master_name"},
		{"password of the Sentinels", sentinel, func(c *server.Peer) { c.WriteError("NOAUTH Authentication required.") }, "redis.sentinel.password"},
		{"no Sentinel", sentinel, func(c *server.Peer) { c.WriteError("ERR unknown command 'sentinel'") }, "redis.master_name"},
	} {
		t.Run(c.name, func(t *testing.T) {
			mini := miniredis.RunT(t)
			mini.Server().SetPreHook(func(peer *server.Peer, cmd string, _ ...string) bool {
				if refused := strings.EqualFold(cmd, c.on); refused {
					c.refuse(peer)
					return true
				}
				return false
			})
			cfg := config.Redis{Addrs: []string{mini.Addr()}, DB: 2, Username: "u", Password: "p"}
			switch c.on {
			case sentinel:
				cfg.MasterName = "primary"
			case "select":
				mini.RequireUserAuth("u", "p")
			default:
				mini.RequireUserAuth("u", "another")
			}
			rdb := newRedis(cfg, nil, nil)
			defer rdb.Close()
			var cmds []redis.Cmder
			_, err := rdb.Pipelined(t.Context(), func(p redis.Pipeliner) error {
				cmds = append(cmds, p.Get(t.Context(), "a"), p.SetNX(t.Context(), "b", "", 0))
				return nil
			})
			cmds = append(cmds, rdb.Get(t.Context(), "c"))
			for _, err := range []error{err, cmds[0].Err(), cmds[1].Err(), cmds[2].Err()} {
				if failure := explainRedis(err); err == nil || errors.Is(err, redis.Nil) || failure == nil || !strings.HasPrefix(failure.Error(), c.setting+": ") {
					t.Errorf("%v, explained as %v, want an error that names %s", err, failure, c.setting)
				}
			}
		})
	}
}

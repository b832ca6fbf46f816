package settings

import (
	"context"
	"errors"
	"fmt"
	"net"
	"sync/atomic"
	"testing"

	"github.com/redis/go-redis/v9"
)

// deafConn loses the next reply if lose is set. The server has executed the command.
type deafConn struct {
	net.Conn
	lose *atomic.Bool
}

func (c *deafConn) Read(b []byte) (int, error) {
	n, err := c.Conn.Read(b)
	if err == nil && c.lose.CompareAndSwap(true, false) {
		_ = c.Conn.Close()
		return 0, errors.New("connection reset by peer")
	}
	return n, err
}

// TestLostReply checks that a loss of writes is noticed, and none is made up, although the reply to a pulse does not
// arrive. Then the client sends the command again (MaxRetries 1), or the next call does.
func TestLostReply(t *testing.T) {
	for _, retries := range []int{1, -1} {
		for _, flushed := range []bool{true, false} {
			t.Run(fmt.Sprintf("retries %d, flushed %v", retries, flushed), func(t *testing.T) {
				k := newEnv(t)
				mini := k.needMini()
				var lose atomic.Bool
				rdb := redis.NewClient(&redis.Options{Addr: k.redisAddr, MaxRetries: retries, DisableIdentity: true,
					Dialer: func(ctx context.Context, network, addr string) (net.Conn, error) {
						conn, err := (&net.Dialer{}).DialContext(ctx, network, addr)
						return &deafConn{conn, &lose}, err
					}})
				t.Cleanup(func() { _ = rdb.Close() })
				d := newDatabase(rdb, k.prefix, nil)
				for range 3 {
					if lost, err := d.lost(t.Context()); lost || err != nil {
						t.Fatalf("before: lost %v, %v", lost, err)
					}
				}
				if flushed {
					mini.FlushAll()
				}
				lose.Store(true)
				noticed := 0
				for range 3 {
					if lost, _ := d.lost(t.Context()); lost {
						noticed++
					}
				}
				if want := map[bool]int{true: 1}[flushed]; noticed != want {
					t.Errorf("%d losses noticed, want %d", noticed, want)
				}
			})
		}
	}
}

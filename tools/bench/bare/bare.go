// Package bare is the limit: a client loop that writes one request, serialised beforehand, on keep-alive connections
// and reads the replies, with nothing else to do.
package bare

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"strings"
	"sync"
	"sync/atomic"

	"github.com/smshooks/smshooks/pkg/webhook"
)

// Config configures a run.
type Config struct {
	Addr     string      // host:port of the receiver
	TLS      *tls.Config // nil = plain HTTP
	Conns    int         // connections at once, each with one request in flight
	Requests int64       // in total
	Record   []byte      // the DLR record whose body is sent
}

// Run sends the requests. With a receiver that closes after every reply it dials for every request. The first error
// ends it.
func Run(ctx context.Context, cfg Config) error {
	request, err := serialise(cfg)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	var (
		left  atomic.Int64
		group sync.WaitGroup
	)
	left.Store(cfg.Requests)
	for range cfg.Conns {
		group.Go(func() {
			if err := loop(ctx, cfg, request, &left); err != nil {
				cancel(err)
			}
		})
	}
	group.Wait()
	if err := context.Cause(ctx); err != nil {
		return fmt.Errorf("bare client: %w", err)
	}
	return nil
}

// serialise writes the request as the service would, headers included.
func serialise(cfg Config) ([]byte, error) {
	var m webhook.Message
	if err := webhook.Decode(webhook.DLR, cfg.Record, &m); err != nil {
		return nil, fmt.Errorf("bare client: %w", err)
	}
	body := m.AppendBody(nil, cfg.Record)
	head := []string{
		"POST /dlr/42 HTTP/1.1", "Host: " + cfg.Addr, "User-Agent: smshooks/bench", fmt.Sprintf("Content-Length: %d", len(body)),
		"Content-Type: " + webhook.DLR.ContentType(), "Webhook-Attempt: 1", "Webhook-Id: evt_2fJ0xq7GvKpZ3mNcR5sTbW", "Webhook-Timestamp: 1772200000",
	}
	return append([]byte(strings.Join(head, "\r\n")+"\r\n\r\n"), body...), nil
}

func loop(ctx context.Context, cfg Config, request []byte, left *atomic.Int64) error {
	var (
		conn   net.Conn
		err    error
		buf    = make([]byte, 4096)
		dialer net.Dialer
	)
	for left.Add(-1) >= 0 && ctx.Err() == nil {
		if conn == nil {
			if conn, err = dialer.DialContext(ctx, "tcp", cfg.Addr); err != nil {
				return err
			}
			if cfg.TLS != nil {
				conn = tls.Client(conn, cfg.TLS)
			}
		}
		if _, err := conn.Write(request); err != nil {
			return err
		}
		again, err := readReply(conn, buf)
		if err != nil {
			return err
		}
		if !again {
			_ = conn.Close() // the receiver has closed the connection
			conn = nil
		}
	}
	if conn != nil {
		return conn.Close()
	}
	return nil
}

// readReply reads a reply without a body and reports whether the connection can be used again.
func readReply(conn net.Conn, buf []byte) (again bool, err error) {
	have := 0
	for {
		n, err := conn.Read(buf[have:])
		have += n
		if bytes.HasSuffix(buf[:have], []byte("\r\n\r\n")) {
			break
		}
		if err != nil {
			return false, err
		}
		if have == len(buf) {
			return false, errors.New("a reply is too long")
		}
	}
	if !bytes.HasPrefix(buf[:have], []byte("HTTP/1.1 200")) {
		return false, fmt.Errorf("the receiver answered %.40q", buf[:have])
	}
	return !bytes.Contains(buf[:have], []byte("Connection: close")), nil
}

// Package handwritten is a consumer for comparison, as a good engineer writes it in an afternoon: franz-go, net/http
// with enough idle connections, a pool of workers, a commit per batch. It looks nothing up, keeps no order, and forgets
// what failed.
package handwritten

import (
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"
)

const (
	batchSize = 2000    // records between two commits
	fetchSize = 8 << 20 // bytes; the client's default of 50 MiB would unpack a whole backlog into memory
)

// Config configures the source and the destination.
type Config struct {
	Brokers []string
	Group   string
	Topic   string
	URL     func(user int) string
	Workers int // requests at once
	Idle    int // MaxIdleConnsPerHost; net/http's default is 2
	MaxIdle int // MaxIdleConns; 0 = no limit
	// IdleTimeout limits the age of an idle connection; 0 = no limit.
	IdleTimeout time.Duration
	TLS         *tls.Config // nil = the system's authorities
	// Ahead commits records every five seconds once a worker has them. Otherwise a batch would wait for its slowest
	// request, and one host that hangs would delay all.
	Ahead bool
	// Lost counts requests whose connection the host closed before a reply.
	Lost *atomic.Int64
}

// record holds the fields of a DLR that are needed here.
type record struct {
	UserID int             `json:"user_id"`
	SMS    json.RawMessage `json:"sms"`
}

// Run consumes until ctx ends. It drops what it cannot send; only Kafka's errors end it.
func Run(ctx context.Context, cfg Config) error {
	options := []kgo.Opt{kgo.SeedBrokers(cfg.Brokers...), kgo.ConsumerGroup(cfg.Group), kgo.ConsumeTopics(cfg.Topic),
		kgo.BlockRebalanceOnPoll(), kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()), kgo.FetchMaxBytes(fetchSize)}
	if !cfg.Ahead {
		options = append(options, kgo.DisableAutoCommit())
	}
	client, err := kgo.NewClient(options...)
	if err != nil {
		return fmt.Errorf("hand-written consumer: %w", err)
	}
	defer client.CloseAllowingRebalance()
	poster := &http.Client{Timeout: 10 * time.Second, Transport: &http.Transport{
		MaxIdleConns: cfg.MaxIdle, MaxIdleConnsPerHost: cfg.Idle, IdleConnTimeout: cfg.IdleTimeout, TLSClientConfig: cfg.TLS,
	}}
	work := make(chan *kgo.Record, cfg.Workers)
	defer close(work)
	var batch sync.WaitGroup
	for range cfg.Workers {
		go func() {
			for r := range work {
				if lost(post(ctx, poster, cfg.URL, r.Value)) { // no retry: that is the comparison
					cfg.Lost.Add(1)
				}
				batch.Done()
			}
		}()
	}
	for {
		fetches := client.PollRecords(ctx, batchSize)
		if ctx.Err() != nil {
			return nil
		}
		if err := fetches.Err(); err != nil {
			return fmt.Errorf("hand-written consumer: polling %s: %w", cfg.Topic, err)
		}
		batch.Add(fetches.NumRecords())
		fetches.EachRecord(func(r *kgo.Record) { work <- r })
		if cfg.Ahead {
			client.AllowRebalance()
			continue
		}
		batch.Wait()
		if err := client.CommitUncommittedOffsets(ctx); err != nil && ctx.Err() == nil {
			return fmt.Errorf("hand-written consumer: committing: %w", err)
		}
		client.AllowRebalance()
	}
}

// lost reports whether a request failed because the connection ended before the reply.
func lost(err error) bool {
	return errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) || errors.Is(err, syscall.ECONNRESET) || errors.Is(err, syscall.EPIPE) ||
		err != nil && strings.Contains(err.Error(), "server closed idle connection") // of net/http, without a type
}

func post(ctx context.Context, client *http.Client, to func(user int) string, value []byte) error {
	var r record
	if err := json.Unmarshal(value, &r); err != nil {
		return err
	}
	body := "sms=" + url.QueryEscape(string(r.SMS))
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, to(r.UserID), strings.NewReader(body))
	if err != nil {
		return err
	}
	req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	resp, err := client.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if _, err := io.Copy(io.Discard, resp.Body); err != nil {
		return err
	}
	if resp.StatusCode != http.StatusOK {
		return fmt.Errorf("status %d", resp.StatusCode)
	}
	return nil
}

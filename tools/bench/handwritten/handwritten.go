// Package handwritten is what a good engineer writes in an afternoon, for comparison: franz-go, net/http with enough
// idle connections, a pool of workers, a commit per batch. It looks nothing up, keeps no order, and forgets what
// failed.
package handwritten

import (
	"context"
	"crypto/tls"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"sync"
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
	Base    string      // scheme://host:port; the path is /dlr/<user>
	Workers int         // requests at once
	Idle    int         // MaxIdleConnsPerHost; 2 is what net/http ships with
	TLS     *tls.Config // nil = the system's authorities
}

// record is as much of a DLR as is needed here.
type record struct {
	UserID int64           `json:"user_id"`
	SMS    json.RawMessage `json:"sms"`
}

// Run consumes until ctx ends. What fails to be sent is dropped; only Kafka's errors end it.
func Run(ctx context.Context, cfg Config) error {
	client, err := kgo.NewClient(kgo.SeedBrokers(cfg.Brokers...), kgo.ConsumerGroup(cfg.Group), kgo.ConsumeTopics(cfg.Topic),
		kgo.DisableAutoCommit(), kgo.BlockRebalanceOnPoll(), kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()), kgo.FetchMaxBytes(fetchSize))
	if err != nil {
		return fmt.Errorf("hand-written consumer: %w", err)
	}
	defer client.CloseAllowingRebalance()
	poster := &http.Client{Timeout: 10 * time.Second, Transport: &http.Transport{
		MaxIdleConns: 4 * cfg.Workers, MaxIdleConnsPerHost: cfg.Idle, TLSClientConfig: cfg.TLS,
	}}
	work := make(chan *kgo.Record, cfg.Workers)
	defer close(work)
	var batch sync.WaitGroup
	for range cfg.Workers {
		go func() {
			for r := range work {
				_ = post(ctx, poster, cfg.Base, r.Value) // no retry: that is the comparison
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
		batch.Wait()
		if err := client.CommitUncommittedOffsets(ctx); err != nil && ctx.Err() == nil {
			return fmt.Errorf("hand-written consumer: committing: %w", err)
		}
		client.AllowRebalance()
	}
}

func post(ctx context.Context, client *http.Client, base string, value []byte) error {
	var r record
	if err := json.Unmarshal(value, &r); err != nil {
		return err
	}
	body := "sms=" + url.QueryEscape(string(r.SMS))
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, base+"/dlr/"+strconv.FormatInt(r.UserID, 10), strings.NewReader(body))
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

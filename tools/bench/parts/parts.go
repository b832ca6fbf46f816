// Package parts measures the rest of the limit: what fetching, decoding and encoding a record cost by themselves.
package parts

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/smshooks/smshooks/pkg/webhook"
	"github.com/smshooks/smshooks/tools/bench/proc"
	"github.com/smshooks/smshooks/tools/bench/result"
)

// Config configures a reading.
type Config struct {
	Brokers []string
	Topic   string
	Records int64 // minimum number in the topic
}

// Run reads the records and writes a [proc.Note] "done" with the figures. Fetching is measured in CPU time of the
// process, since it happens on several threads; the other two as time of a loop.
func Run(ctx context.Context, cfg Config, out io.Writer) error {
	fetch, sample, err := fetch(ctx, cfg)
	if err != nil {
		return fmt.Errorf("fetching %s: %w", cfg.Topic, err)
	}
	var m webhook.Message
	if err := webhook.Decode(webhook.DLR, sample, &m); err != nil {
		return fmt.Errorf("decoding a record of %s: %w", cfg.Topic, err)
	}
	decode := each(func() { _ = webhook.Decode(webhook.DLR, sample, &m) })
	body := make([]byte, 0, 4096)
	encode := each(func() { body = m.AppendBody(body[:0], sample) })
	figures := result.Figures{result.Fetch: fetch, result.Decode: decode, result.Encode: encode}
	return json.NewEncoder(out).Encode(proc.Note{Event: "done", Figures: figures})
}

// fetch returns CPU-µs per record, and one of the records.
func fetch(ctx context.Context, cfg Config) (micros float64, sample []byte, err error) {
	client, err := kgo.NewClient(kgo.SeedBrokers(cfg.Brokers...), kgo.ConsumeTopics(cfg.Topic), kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()),
		kgo.FetchMaxBytes(8<<20), kgo.MaxConcurrentFetches(4))
	if err != nil {
		return 0, nil, err
	}
	defer client.Close()
	if err := client.Ping(ctx); err != nil {
		return 0, nil, err
	}
	before, err := proc.CPU(os.Getpid())
	if err != nil {
		return 0, nil, err
	}
	for n := int64(0); n < cfg.Records; {
		fetches := client.PollFetches(ctx)
		if err := fetches.Err(); err != nil {
			return 0, nil, err
		}
		n += int64(fetches.NumRecords())
		fetches.EachRecord(func(r *kgo.Record) { sample = r.Value })
	}
	after, err := proc.CPU(os.Getpid())
	return float64((after - before).Microseconds()) / float64(cfg.Records), sample, err
}

// each returns the average time of a call in µs, over a tenth of a second.
func each(call func()) float64 {
	const batch = 1000
	n, began := 0, time.Now()
	for time.Since(began) < 100*time.Millisecond {
		for range batch {
			call()
		}
		n += batch
	}
	return float64(time.Since(began).Nanoseconds()) / 1e3 / float64(n)
}

package demo

import (
	"context"
	"fmt"
	"strconv"
	"sync/atomic"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/smshooks/smshooks/pkg/webhook"
)

const (
	beat      = 20 * time.Millisecond // between two checks for due events
	flushTime = 10 * time.Second
)

// gateway plays the SMS platform: it writes the four source topics and counts what Kafka acknowledged.
type gateway struct {
	client *kgo.Client
	topics [webhook.NumKinds]string
	users  []*user

	lastID int64 // of messages
	clicks map[int64]*clickSequence

	acked            [webhook.NumKinds]atomic.Int64
	filtered, repeat atomic.Int64 // clicks among them that must not be sent
	failed           atomic.Pointer[error]
}

// clickSequence makes a user's clicks cover every case.
type clickSequence struct {
	n       int
	message int64 // the last one clicked by a person
}

func newGateway(client *kgo.Client, topics [webhook.NumKinds]string, users []*user) *gateway {
	return &gateway{client: client, topics: topics, users: users, lastID: 1_000_000, clicks: map[int64]*clickSequence{}}
}

// run emits until every user's time has passed or ctx ends, and returns when all records are acknowledged.
func (g *gateway) run(ctx context.Context, began time.Time) error {
	ticker := time.NewTicker(beat)
	defer ticker.Stop()
	due := make([][webhook.NumKinds]time.Duration, len(g.users))
	for more := true; more; {
		elapsed := time.Since(began)
		more = false
		for i, u := range g.users {
			if elapsed >= u.until {
				continue
			}
			more = true
			for _, k := range webhook.Kinds() {
				for ; due[i][k] <= elapsed; due[i][k] += u.pace[k] {
					g.emit(u, k)
				}
			}
		}
		select {
		case <-ctx.Done():
			more = false
		case <-ticker.C:
		}
	}
	flushing, cancel := context.WithTimeout(context.WithoutCancel(ctx), flushTime)
	defer cancel()
	if err := g.client.Flush(flushing); err != nil {
		return fmt.Errorf("gateway: flush records: %w", err)
	}
	if err := g.failed.Load(); err != nil {
		return fmt.Errorf("gateway: write a record: %w", *err)
	}
	return nil
}

func (g *gateway) emit(u *user, k webhook.Kind) {
	var value []byte
	sort := fires
	switch k {
	case webhook.DLR:
		g.lastID++
		value = dlrRecord(u.id, g.lastID)
	case webhook.Click:
		value, sort = g.click(u)
	case webhook.Inbound:
		g.lastID++
		value = inboundRecord(u.id, g.lastID)
	case webhook.RevokeClick:
		g.lastID += 3
		value = fmt.Appendf(nil, `{"user_id":%d,"api_sms_ids":[%d,%d],"campaign_sms_ids":[%d]}`, u.id, g.lastID-2, g.lastID-1,
			g.lastID)
	}
	r := &kgo.Record{Topic: g.topics[k], Key: strconv.AppendInt(nil, u.id, 10), Value: value}
	g.client.Produce(context.Background(), r, func(_ *kgo.Record, err error) {
		if err != nil {
			g.failed.CompareAndSwap(nil, &err)
			return
		}
		g.acknowledged(u, k, sort)
	})
}

func (g *gateway) acknowledged(u *user, k webhook.Kind, sort clickSort) {
	g.acked[k].Add(1)
	u.sent.Add(1)
	switch sort {
	case filtered:
		g.filtered.Add(1)
		u.skipped.Add(1)
	case repeated:
		g.repeat.Add(1)
		u.skipped.Add(1)
	}
}

// clickSort is the expected fate of a click.
type clickSort int

const (
	fires clickSort = iota
	filtered
	repeated
)

// click returns clicks of which every seventh is from a bot, is from a preview, or repeats an earlier one.
func (g *gateway) click(u *user) ([]byte, clickSort) {
	s := g.clicks[u.id]
	if s == nil {
		s = &clickSequence{}
		g.clicks[u.id] = s
	}
	s.n++
	switch s.n % 7 {
	case 2:
		return clickRecord(u.id, s.message, false, false), repeated
	case 4:
		g.lastID++
		return clickRecord(u.id, g.lastID, true, false), filtered
	case 6:
		g.lastID++
		return clickRecord(u.id, g.lastID, false, true), filtered
	}
	g.lastID++
	s.message = g.lastID
	return clickRecord(u.id, s.message, false, false), fires
}

func dlrRecord(userID, id int64) []byte {
	return append(append(fmt.Appendf(nil, `{"user_id":%d,"sms":`, userID), message(id, false)...), '}')
}

func clickRecord(userID, id int64, bot, preview bool) []byte {
	return fmt.Appendf(nil, `{"user_id":%d,"sms":%s,"bot":%t,"preview":%t}`, userID, message(id, true), bot, preview)
}

func inboundRecord(userID, id int64) []byte {
	return fmt.Appendf(nil, `{"user_id":%d,"sms":{"id":%d,"from":"15550100","to":1234,"message":"Yes & thank you","received":"2026-02-27 14:35:00"}}`, userID, id)
}

func message(id int64, clicked bool) []byte {
	return fmt.Appendf(nil, `{"id":%d,"created":"2026-02-27 14:30:00","updated":"2026-02-27 14:35:00","from":"Demo","to":15550100,"verify_local":0,`+
		`"shorten_url":1,"list_id":456,"reference":"demo-%d","transactional":0,"preferred_route_id":789,"campaign_id":100,"delay_time":null,`+
		`"country_id":226,"country_name":"United States","country_iso":"US","clicked":%t,"cost":0.0175,"parts":1,"original_url":"https://example.com/offer",`+
		`"shortened_url":"https://short.example.com/abc123","text":"Check out this offer: https://short.example.com/abc123","status":"sent","dlr_status":"Delivered"}`,
		id, id, clicked)
}

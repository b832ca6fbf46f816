package kafka

import (
	"context"
	"encoding/binary"
	"net"
	"sync/atomic"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/smshooks/smshooks/internal/tlsfiles"
)

// Fetches from one broker are spaced by the time in which about bunch records arrive, within minPace and maxPace. They
// are spaced by minPace while fewer than few records arrive in maxPace: waiting for the next one would save little.
const (
	bunch, few       = 15, 4
	minPace, maxPace = 2 * time.Millisecond, 15 * time.Millisecond
)

// pacer spaces the fetches of a client with [Config.PaceFetches]. A client fetches again as soon as the broker answers,
// and the broker answers as soon as it has one record. At a thousand records a second that would be a thousand fetches,
// which are most of the work. With spacing, each fetch returns all records since the last one, and a record after a
// pause is still returned at once. The client has no setting for this: a longer minimum wait at the broker would delay
// single records.
type pacer struct {
	records atomic.Int64 // fetched since the last check
}

var _ kgo.HookFetchBatchRead = (*pacer)(nil)

// OnFetchBatchRead implements [kgo.HookFetchBatchRead].
func (p *pacer) OnFetchBatchRead(_ kgo.BrokerMetadata, _ string, _ int32, batch kgo.FetchBatchMetrics) {
	p.records.Add(int64(batch.NumRecords))
}

// over spaces the fetches of the connections that dial opens.
func (p *pacer) over(dial tlsfiles.Dial) tlsfiles.Dial {
	return func(ctx context.Context, network, addr string) (net.Conn, error) {
		conn, err := dial(ctx, network, addr)
		if err != nil {
			return nil, err
		}
		return &paced{Conn: conn, pacer: p}, nil
	}
}

// paced is a connection whose fetches are spaced. The client has one fetch under way on a connection.
type paced struct {
	net.Conn
	pacer *pacer
	asked time.Time // when the client sent the last fetch
	sent  time.Time // when the fetch left
}

// Write writes one request, as the client does.
func (p *paced) Write(request []byte) (int, error) {
	if isFetch(request) {
		now := time.Now()
		time.Sleep(spacing(now.Sub(p.asked), p.pacer.records.Swap(0)) - now.Sub(p.sent))
		p.asked, p.sent = now, time.Now()
	}
	return p.Conn.Write(request)
}

// spacing returns the time between two fetches while n records arrive in a time.
func spacing(in time.Duration, n int64) time.Duration {
	in = max(min(in, time.Second), time.Microsecond)
	if time.Duration(n)*maxPace < few*in {
		return minPace
	}
	return min(max(in*bunch/time.Duration(n), minPace), maxPace)
}

// isFetch checks a request's key, which follows its length.
func isFetch(request []byte) bool {
	return len(request) >= 6 && kmsg.Key(binary.BigEndian.Uint16(request[4:])) == kmsg.Fetch
}

package kafka

import (
	"context"
	"encoding/binary"
	"net"
	"time"

	"github.com/twmb/franz-go/pkg/kmsg"
	"golang.org/x/time/rate"

	"github.com/smshooks/smshooks/internal/tlsfiles"
)

// fetchPace is the least time between two fetches of one broker by a client with [Config.PaceFetches].
const fetchPace = 2 * time.Millisecond

// paced spaces the fetches of one connection. A client fetches again as soon as the broker answers, and the broker
// answers as soon as it has one record. At a thousand records a second that would be a thousand fetches, which are most
// of the work. With spacing, each fetch returns all records since the last one, and a record after a pause is still
// returned at once. The client has no setting for this: a longer minimum wait at the broker would delay single records.
type paced struct {
	net.Conn
	fetches *rate.Limiter
}

// Write writes one request, as the client does.
func (p *paced) Write(request []byte) (int, error) {
	if isFetch(request) {
		time.Sleep(p.fetches.Reserve().Delay())
	}
	return p.Conn.Write(request)
}

// isFetch looks at a request's key, which follows its length.
func isFetch(request []byte) bool {
	return len(request) >= 6 && kmsg.Key(binary.BigEndian.Uint16(request[4:])) == kmsg.Fetch
}

func paceFetches(dial tlsfiles.Dial) tlsfiles.Dial {
	return func(ctx context.Context, network, addr string) (net.Conn, error) {
		conn, err := dial(ctx, network, addr)
		if err != nil {
			return nil, err
		}
		return &paced{conn, rate.NewLimiter(rate.Every(fetchPace), 1)}, nil
	}
}

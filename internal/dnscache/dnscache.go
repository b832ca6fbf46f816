// Package dnscache is Go's resolver with a cache of the name server's answers below it. Everything else remains Go's:
// the hosts file, search domains, both address families, and a single lookup for simultaneous ones of a name.
package dnscache

import (
	"context"
	"net"
	"strings"
	"sync"
	"time"
)

const (
	// MaxAge is the longest time for which an answer is kept, whatever its lifetime.
	MaxAge = time.Minute
	// maxBytes bounds the answers that are kept. One of them has about 200 bytes.
	maxBytes = 16 << 20
	overhead = 160 // bytes per answer, in addition to question and message

	// A name server that never answers for one address family would use up the time of every lookup. So the addresses
	// of the other family suffice after a while, as in RFC 8305, 3. This is longer for IPv4, since more machines lack
	// IPv6. The question is repeated in the middle of that time, because a packet may have been lost.
	patience6 = 2 * time.Second
	patience4 = 4 * time.Second
	// missingAge is the time for which a family counts as missing. It is short, because the answer may only be late.
	missingAge = 10 * time.Second
)

// New returns a resolver that asks the same name servers as base, and has an empty cache. It keeps answers with
// addresses, and answers that a name has no addresses of a family, for their lifetime. It keeps no failures. But if a
// name has addresses of one family, and there is no answer for the other, that one counts as missing for a moment.
func New(base *net.Resolver) *net.Resolver {
	c := newCache(base.Dial)
	return &net.Resolver{PreferGo: true, Dial: c.open}
}

// dialer connects to a name server.
type dialer func(ctx context.Context, network, server string) (net.Conn, error)

type cache struct {
	dial dialer

	mu      sync.Mutex
	answers map[string]answer // by question, in wire form
	bytes   int
	waiting map[string][]*exchange // for the name server's answer, by question
}

// answer is a message of the name server.
type answer struct {
	message []byte
	expires time.Time
}

func newCache(dial dialer) *cache {
	if dial == nil {
		dial = new(net.Dialer).DialContext
	}
	return &cache{dial: dial, answers: make(map[string]answer), waiting: make(map[string][]*exchange)}
}

// open returns an exchange, which the resolver uses like a connection to a name server.
func (c *cache) open(ctx context.Context, network, server string) (net.Conn, error) {
	if !strings.HasPrefix(network, "udp") {
		return c.dial(ctx, network, server) // for an answer that is too large for a packet
	}
	return &exchange{cache: c, dial: func() (net.Conn, error) { return c.dial(ctx, network, server) }}, nil
}

// get returns an answer that has not expired.
func (c *cache) get(question string) []byte {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.getLocked(question)
}

func (c *cache) getLocked(question string) []byte {
	a, ok := c.answers[question]
	if ok && !time.Now().Before(a.expires) {
		c.drop(question)
		return nil
	}
	return a.message
}

func (c *cache) put(question string, message []byte, lifetime time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.putLocked(question, message, lifetime)
}

func (c *cache) putLocked(question string, message []byte, lifetime time.Duration) {
	c.drop(question)
	c.answers[question] = answer{message, time.Now().Add(lifetime)}
	c.bytes += size(question, message)
	for other := range c.answers { // in no particular order
		if c.bytes <= maxBytes {
			break
		}
		c.drop(other)
	}
}

func (c *cache) drop(question string) {
	if a, ok := c.answers[question]; ok {
		delete(c.answers, question)
		c.bytes -= size(question, a.message)
	}
}

func size(question string, message []byte) int { return len(question) + len(message) + overhead }

package harness

import (
	"context"
	"fmt"
	"strings"
	"testing"

	"github.com/Shopify/toxiproxy/v2"
	"github.com/rs/zerolog"
)

// Proxy is between the program and a server, and disturbs the connection.
type Proxy struct {
	Addr string // 127.0.0.1:port, the same across Cut and Heal
	p    *toxiproxy.Proxy
	down bool
}

// NewProxy starts a proxy for a server's address.
func NewProxy(t testing.TB, upstream string) *Proxy {
	t.Helper()
	return newProxyAt(t, FreeAddr(t), upstream)
}

func newProxyAt(t testing.TB, addr, upstream string) *Proxy {
	t.Helper()
	srv := toxiproxy.NewServer(toxiproxy.NewMetricsContainer(nil), zerolog.Nop())
	p := &Proxy{Addr: addr, p: toxiproxy.NewProxy(srv, "proxy", addr, upstream)}
	if err := p.p.Start(); err != nil {
		t.Fatalf("proxy of %s: %v", upstream, err)
	}
	t.Cleanup(func() {
		if !p.down {
			p.p.Stop()
		}
	})
	return p
}

// Cut closes all connections and refuses new ones.
func (p *Proxy) Cut(testing.TB) {
	p.p.Stop()
	p.down = true
}

// Delay delays each piece of an answer by the given milliseconds, plus or minus jitter.
func (p *Proxy) Delay(t testing.TB, ms, jitter int) {
	t.Helper()
	p.toxic(t, fmt.Sprintf(`{"name":"delay","type":"latency","stream":"downstream","attributes":{"latency":%d,"jitter":%d}}`, ms, jitter))
}

// Swallow keeps connections open and accepts new ones, but passes nothing in either direction, like half-open sockets.
// What it swallows is lost: Heal closes these connections.
func (p *Proxy) Swallow(t testing.TB) {
	t.Helper()
	for _, stream := range []string{"upstream", "downstream"} {
		p.toxic(t, `{"name":"swallow-`+stream+`","type":"timeout","stream":"`+stream+`","attributes":{"timeout":0}}`)
	}
}

func (p *Proxy) toxic(t testing.TB, json string) {
	t.Helper()
	if _, err := p.p.Toxics.AddToxicJson(strings.NewReader(json)); err != nil {
		t.Fatalf("proxy: add %s: %v", json, err)
	}
}

// Heal ends all disturbances.
func (p *Proxy) Heal(t testing.TB) {
	t.Helper()
	if p.down {
		if err := p.p.Start(); err != nil {
			t.Fatalf("proxy: start again: %v", err)
		}
		p.down = false
		return
	}
	p.p.Toxics.ResetToxics(context.Background())
}

// ProxiedKafka starts a broker for the test with two listeners. Addr is direct. A client that connects through the
// proxy stays there, since the broker advertises the proxy's address to it.
func ProxiedKafka(t testing.TB) (*Broker, *Proxy) {
	t.Helper()
	Need(t)
	addr := FreeAddr(t)
	s := kafkaSpec()
	s.ports = []string{"9092", "9094"}
	s.env = func(addrs []string) map[string]string {
		vars := kafkaEnv(addrs)
		vars["KAFKA_LISTENERS"] += ",PROXIED://0.0.0.0:9094"
		vars["KAFKA_ADVERTISED_LISTENERS"] += ",PROXIED://" + addr
		vars["KAFKA_LISTENER_SECURITY_PROTOCOL_MAP"] += ",PROXIED:PLAINTEXT"
		vars["KAFKA_INTER_BROKER_LISTENER_NAME"] = "PLAINTEXT"
		return vars
	}
	srv := runOwn(t, s)
	return &Broker{Addr: srv.addr, srv: srv}, newProxyAt(t, addr, srv.addrs[1])
}

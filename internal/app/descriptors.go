package app

import (
	"math"
	"runtime"

	"go.uber.org/zap"

	"github.com/smshooks/smshooks/config"
)

const (
	// What is open besides requests and API connections: files, listeners and the connections to the operations listener.
	ownDescriptors = 32 + opsConnections
	// Operations connections.
	opsConnections = 50
	// Connections of all Kafka clients of the process to one broker.
	perBroker = 24
	// Brokers that there are at least, however few of them are set.
	leastBrokers = 3
	// Connections to one Redis server for each processor.
	redisPerCPU = 10

	// A test sends one request of each kind.
	perTest = 4
	// Tests that may be under way.
	mostTests = 200
)

// allotment is how the descriptors that the process may open are shared out. A tenth of them is in nobody's share: names
// are resolved and connections dialled with it.
type allotment struct {
	inFlight int // requests in flight
	api      int // connections of the API listener
	tests    int // test events of the API, of perTest requests each
	conns    int // connections to receivers, idle ones included
	needed   uint64
}

// allot shares out limit descriptors. If they are too few, requests and API connections get what is left.
func allot(limit uint64, cfg *config.Config) allotment {
	a := allotment{inFlight: cfg.Dispatch.MaxInFlight, api: cfg.API.MaxConnections, tests: mostTests}
	own := ownDescriptors + perBroker*max(leastBrokers, len(cfg.Kafka.Brokers)) + redisPerCPU*runtime.GOMAXPROCS(0)*max(1, len(cfg.Redis.Addrs))
	a.needed = (uint64(own)+uint64(a.inFlight)+uint64(a.api)+uint64(perTest*a.tests))*10/9 + 1
	left := int(min(limit-limit/10, math.MaxInt32)) - own
	if limit < a.needed {
		left = max(left, 8)
		a.api = min(a.api, max(1, left/4))
		a.tests = min(a.tests, max(1, left/32))
		a.inFlight = min(a.inFlight, max(1, left-a.api-perTest*a.tests))
	}
	a.conns = max(a.inFlight, left-a.api)
	return a
}

// limits allots this process's descriptors, and says so if they are too few.
func (a *App) limits() allotment {
	limit := descriptorLimit()
	share := allot(limit, a.Config)
	if limit < share.needed {
		a.Log.Warn("the limit of open files is too low: fewer requests are in flight and fewer API connections held than set; raise it (ulimit -n, LimitNOFILE)",
			zap.Uint64("limit", limit), zap.Uint64("needed", share.needed),
			zap.Int("dispatch.max_in_flight", a.Config.Dispatch.MaxInFlight), zap.Int("requests_in_flight", share.inFlight),
			zap.Int("api.max_connections", a.Config.API.MaxConnections), zap.Int("api_connections", share.api))
	}
	return share
}

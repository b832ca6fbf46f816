package app

import (
	"math"
	"runtime"

	"go.uber.org/zap"

	"github.com/smshooks/smshooks/config"
)

const (
	// Descriptors besides those of requests and API connections: files, listeners, operations connections.
	ownDescriptors = 32 + opsConnections
	// Operations connections.
	opsConnections = 50
	// Connections of all Kafka clients of the process to one broker.
	perBroker = 24
	// Assumed number of brokers if kafka.brokers lists fewer.
	leastBrokers = 3
	// Connections to one Redis server per processor.
	redisPerCPU = 10

	// A test sends one request of each kind.
	perTest = 4
	// Tests under way at the same time.
	mostTests = 200
	// Requests and API connections get at least limit/leastShare descriptors. With many processors, the process itself
	// would otherwise be given all of a low limit, of which it rarely needs more than 40.
	leastShare = 4
)

// allotment divides the file descriptors of the process. A tenth is left for resolving names and dialling.
type allotment struct {
	inFlight int    // requests in flight
	api      int    // connections of the API listener
	tests    int    // test events of the API, of perTest requests each
	conns    int    // connections to receivers, idle ones included
	needed   uint64 // limit at which all settings fit
}

// allot divides limit descriptors. If there are too few, requests and API connections share what is left.
func allot(limit uint64, cfg *config.Config) allotment {
	a := allotment{inFlight: cfg.Dispatch.MaxInFlight, api: cfg.API.MaxConnections, tests: mostTests}
	own := ownDescriptors + perBroker*max(leastBrokers, len(cfg.Kafka.Brokers)) +
		redisPerCPU*runtime.GOMAXPROCS(0)*max(1, len(cfg.Redis.Addrs))
	a.needed = (uint64(own)+uint64(a.inFlight)+uint64(a.api)+uint64(perTest*a.tests))*10/9 + 1
	left := int(min(limit-limit/10, math.MaxInt32)) - own
	if limit < a.needed {
		left = max(left, int(limit/leastShare), 8)
		a.api = min(a.api, max(1, left/4))
		a.tests = min(a.tests, max(1, left/32))
		a.inFlight = min(a.inFlight, max(1, left-a.api-perTest*a.tests))
	}
	a.conns = max(a.inFlight, left-a.api)
	return a
}

// limits divides the descriptors of this process. It logs a warning if there are too few.
func (a *App) limits() allotment {
	limit := descriptorLimit()
	share := allot(limit, a.Config)
	if limit < share.needed {
		a.Log.Warn("open file limit is too low for the settings; raise it (ulimit -n, LimitNOFILE) "+
			"or accept the lower limits",
			zap.Uint64("limit", limit), zap.Uint64("needed", share.needed),
			zap.Int("dispatch.max_in_flight", a.Config.Dispatch.MaxInFlight), zap.Int("requests_in_flight", share.inFlight),
			zap.Int("api.max_connections", a.Config.API.MaxConnections), zap.Int("api_connections", share.api))
	}
	return share
}

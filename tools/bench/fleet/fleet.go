// Package fleet simulates the customers' servers of a platform: thousands of distant hosts with their own names and
// certificates, most of them called about once a minute, and some of them broken.
package fleet

import (
	"fmt"
	"math"
	"math/rand/v2"
	"strconv"
	"strings"
	"time"
)

// Fleet describes where the hosts can be reached. Host i, from 1, belongs to user i.
type Fleet struct {
	Hosts  int    // how many there are
	Port   string // of all other hosts
	Closed string // the port of hosts that refuse connections
}

// Class is the behaviour of a host.
type Class int

// The classes: hosts that keep an idle connection for some time, and hosts that fail.
const (
	Keeps1s Class = iota
	Keeps5s
	Keeps15s
	Keeps75s
	KeepsAlways
	Hangs        // accepts a request and never answers
	Refuses      // refuses connections
	FailsTLS     // fails the TLS handshake
	classes      // how many there are
	keeping  = 5 // how many keep a connection and answer
)

// Classes returns all classes.
func Classes() []Class {
	all := make([]Class, classes)
	for i := range all {
		all[i] = Class(i)
	}
	return all
}

func (c Class) String() string {
	return [...]string{"closes after 1 s", "closes after 5 s", "closes after 15 s", "closes after 75 s", "never closes",
		"hangs", "refuses", "fails handshakes"}[c]
}

// idle returns how long a host of the class keeps an idle connection.
func (c Class) idle() time.Duration {
	const day = 24 * time.Hour
	return [...]time.Duration{time.Second, 5 * time.Second, 15 * time.Second, 75 * time.Second, day, day, day, day}[c]
}

// ClassOf returns the class of a host. 2% hang, 1% refuse and 1% fail handshakes. The others are divided
// equally between the idle times. The class is independent of how often a host is called.
func ClassOf(host int) Class {
	// A multiplicative hash: the same host has the same class in every run.
	n := uint32(host) * 2654435761 >> 8
	switch share := n % 100; {
	case share < 2:
		return Hangs
	case share == 2:
		return Refuses
	case share == 3:
		return FailsTLS
	}
	return Class(n / 100 % keeping)
}

const domain = ".fleet.test"

// Name returns the DNS name of a host.
func Name(host int) string { return "h" + strconv.Itoa(host) + domain }

// hostOf returns the host with a DNS name, or 0.
func (f Fleet) hostOf(name string) int {
	digits, ok := strings.CutPrefix(strings.TrimSuffix(strings.TrimSuffix(name, "."), domain), "h")
	host, err := strconv.Atoi(digits)
	if !ok || err != nil || host < 1 || host > f.Hosts {
		return 0
	}
	return host
}

// address returns the IPv4 address of a host: one in 127.0.0.0/8, other than 127.0.0.1.
func address(host int) [4]byte {
	return [4]byte{127, byte(1 + host>>16), byte(host >> 8), byte(host)}
}

// URL returns the URL of a user, on his host.
func (f Fleet) URL(user int) string {
	port := f.Port
	if ClassOf(user) == Refuses {
		port = f.Closed
	}
	return fmt.Sprintf("https://%s:%s/dlr/%d", Name(user), port, user)
}

// NewTraffic returns a function that draws the user of the next event. The users' shares follow Zipf's law, shifted so
// that the busiest of 10,000 hosts gets 1% of the events and half of the hosts get fewer than one in 30,000 each.
func NewTraffic(hosts int) func() int {
	const exponent, shift = 1.05, 20
	zipf := rand.NewZipf(rand.New(rand.NewPCG(1, 2)), exponent, shift, uint64(hosts-1))
	return func() int { return 1 + int(zipf.Uint64()) }
}

// replyTime draws the time that a host takes to answer: log-normal, with a median of 80 ms and a 99th percentile of
// 1.5 s. It stays below the time limit of a request, which only the hosts that hang exceed.
func replyTime() time.Duration {
	const (
		median = 80 * time.Millisecond
		spread = 1.26 // ln(1500/80) / 2.326, the 99th percentile of the normal distribution
		most   = 8 * time.Second
	)
	return min(time.Duration(float64(median)*math.Exp(spread*rand.NormFloat64())), most)
}

package config

import (
	"encoding/base64"
	"errors"
	"fmt"
	"math"
	"net"
	"net/netip"
	"net/url"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/smshooks/smshooks/internal/topics"
	"github.com/smshooks/smshooks/pkg/delay"
)

const (
	maxInt32      = math.MaxInt32
	maxPartitions = 100_000
	mebibyte      = 1 << 20
	gibibyte      = 1 << 30
	keyBytes      = 32
)

func same(s string) string { return s }

func text() kind[string] {
	return kind[string]{word: "text", parse: func(s string) (string, error) { return s, nil }, format: same}
}

// filled is text that is not empty.
func filled() kind[string] {
	return kind[string]{word: "text", parse: func(s string) (string, error) {
		if strings.TrimSpace(s) == "" {
			return "", errors.New("must not be empty")
		}
		return s, nil
	}, format: same}
}

func optional(k kind[string]) kind[string] {
	parse := k.parse
	k.parse = func(s string) (string, error) {
		if s == "" {
			return "", nil
		}
		return parse(s)
	}
	return k
}

// choice is one of the words, in any case.
func choice(words ...string) kind[string] {
	named := words
	if named[0] == "" {
		named = named[1:]
	}
	return kind[string]{word: "word", words: named, format: same, parse: func(s string) (string, error) {
		for _, word := range words {
			if strings.EqualFold(s, word) {
				return word, nil
			}
		}
		return "", fmt.Errorf("%q is not one of %s", s, strings.Join(named, ", "))
	}}
}

func boolean() kind[bool] {
	return kind[bool]{word: "boolean", words: []string{"true", "false"}, format: strconv.FormatBool,
		parse: func(s string) (bool, error) {
			b, err := strconv.ParseBool(strings.TrimSpace(s))
			if err != nil {
				return false, fmt.Errorf("%q is neither true nor false", s)
			}
			return b, nil
		}}
}

func number(least, most int) kind[int] {
	return kind[int]{word: "number", parse: func(s string) (int, error) {
		n, err := strconv.Atoi(strings.TrimSpace(s))
		switch {
		case err != nil && !errors.Is(err, strconv.ErrRange):
			return 0, fmt.Errorf("%q is not a whole number", s)
		case err != nil || n < least || n > most:
			return 0, fmt.Errorf("%q is not between %d and %d", s, least, most)
		}
		return n, nil
	}, format: strconv.Itoa}
}

// replication is a replica count, or -1.
func replication() kind[int] {
	k := number(-1, math.MaxInt16)
	parse := k.parse
	k.parse = func(s string) (int, error) {
		n, err := parse(s)
		if err == nil && n == 0 {
			err = fmt.Errorf("%q is neither -1 nor a number of replicas", s)
		}
		return n, err
	}
	return k
}

// longest leaves room for sums of durations, such as a topic's retention.
const longest = 10 * 365 * 24 * time.Hour

func duration() kind[time.Duration] {
	return kind[time.Duration]{word: "duration", parse: func(s string) (time.Duration, error) {
		d, err := delay.Parse(strings.TrimSpace(s))
		if err != nil {
			return 0, err
		}
		if d <= 0 {
			return 0, fmt.Errorf("%q is not above zero", s)
		}
		if d > longest {
			return 0, fmt.Errorf("%q is longer than %s", s, delay.Name(longest))
		}
		return d, nil
	}, format: delay.Name}
}

// step is a duration that names a topic. It has whole milliseconds, like due times.
func step() kind[time.Duration] {
	k := duration()
	parse := k.parse
	k.parse = func(s string) (time.Duration, error) {
		d, err := parse(s)
		if err == nil && d%time.Millisecond != 0 {
			err = fmt.Errorf("%q is not a whole number of milliseconds", s)
		}
		return d, err
	}
	return k
}

// maxDelays is the greatest number of delays in a list: each has a topic per kind, and the dispatcher counts them in a
// byte.
const maxDelays = 100

func fewDelays(ds []time.Duration) error {
	if len(ds) > maxDelays {
		return fmt.Errorf("has %d delays, at most %d", len(ds), maxDelays)
	}
	return nil
}

func ascending(ds []time.Duration) error {
	if err := notEmpty(ds); err != nil {
		return err
	}
	if err := fewDelays(ds); err != nil {
		return err
	}
	for i := 1; i < len(ds); i++ {
		switch before, d := ds[i-1], ds[i]; {
		case d == before:
			return fmt.Errorf("%q is listed twice", delay.Name(d))
		case d < before:
			return fmt.Errorf("%q follows %q, must ascend", delay.Name(d), delay.Name(before))
		}
	}
	return nil
}

func notEmpty[T any](items []T) error {
	if len(items) == 0 {
		return errors.New("must not be empty")
	}
	return nil
}

var sizePattern = regexp.MustCompile(`^([0-9]+)\s*([A-Za-z]*)$`)

// byteSize is a plain number of bytes, or one with a decimal or binary unit.
func byteSize(least, most int64) kind[int64] {
	units := map[string]int64{
		"": 1, "b": 1,
		"kb": 1e3, "mb": 1e6, "gb": 1e9, "tb": 1e12,
		"kib": 1 << 10, "mib": 1 << 20, "gib": 1 << 30, "tib": 1 << 40,
	}
	return kind[int64]{word: "bytes", parse: func(s string) (int64, error) {
		parts := sizePattern.FindStringSubmatch(strings.TrimSpace(s))
		if parts == nil {
			return 0, fmt.Errorf("%q is not a number of bytes (try 67108864 or 64MiB)", s)
		}
		unit, known := units[strings.ToLower(parts[2])]
		if !known {
			return 0, fmt.Errorf("%q has an unknown unit (B, kB, MB, GB, TB, KiB, MiB, GiB, TiB)", s)
		}
		n, err := strconv.ParseInt(parts[1], 10, 64)
		if err != nil || n > math.MaxInt64/unit {
			return 0, fmt.Errorf("%q is too large", s)
		}
		if n*unit < least {
			return 0, fmt.Errorf("%q is less than %d bytes", s, least)
		}
		if n*unit > most {
			return 0, fmt.Errorf("%q is more than %d bytes", s, most)
		}
		return n * unit, nil
	}, format: func(n int64) string { return strconv.FormatInt(n, 10) }}
}

// address is host:port with a port of least or more. An address to listen on
// (least is 0) may omit the host.
func address(least uint64) kind[string] {
	return kind[string]{word: "host:port", parse: func(s string) (string, error) {
		s = strings.TrimSpace(s)
		// Text that looks like a URL may hold a password: do not repeat it.
		if strings.ContainsAny(s, "@/") {
			return "", errors.New("is not host:port: leave out the scheme and the user")
		}
		host, port, err := net.SplitHostPort(s)
		if err != nil || strings.ContainsAny(host, " \t") || (host == "" && least > 0) {
			return "", fmt.Errorf("%q is not host:port", s)
		}
		if n, err := strconv.ParseUint(port, 10, 16); err != nil || n < least {
			return "", fmt.Errorf("%q has no port from %d to 65535", s, least)
		}
		return s, nil
	}, format: same}
}

// loopback is an address to listen on that other machines cannot reach.
func loopback() kind[string] {
	k := address(0)
	parse := k.parse
	k.parse = func(s string) (string, error) {
		s, err := parse(s)
		if err != nil {
			return "", err
		}
		host, _, _ := net.SplitHostPort(s)
		if ip, err := netip.ParseAddr(host); host != "localhost" && (err != nil || !ip.IsLoopback()) {
			return "", fmt.Errorf("%q is not a loopback address: the embedded servers have no authentication", s)
		}
		return s, nil
	}
	return k
}

// ratio is a share from 0 to 1.
func ratio() kind[float64] {
	return kind[float64]{word: "ratio", parse: func(s string) (float64, error) {
		f, err := strconv.ParseFloat(strings.TrimSpace(s), 64)
		if err != nil || !(f >= 0 && f <= 1) {
			return 0, fmt.Errorf("%q is not a number from 0 to 1", s)
		}
		return f, nil
	}, format: func(f float64) string { return strconv.FormatFloat(f, 'g', -1, 64) }}
}

// collector is the URL of an OTLP/HTTP collector.
func collector() kind[string] { return server("http://collector:4318") }

// tokenServer is the URL of an OAuth token server.
func tokenServer() kind[string] { return server("https://login.example.com/oauth2/token") }

// server is a URL such as example. The error for a URL with credentials or a query does not repeat it.
func server(example string) kind[string] {
	return kind[string]{word: "URL", parse: func(s string) (string, error) {
		u, err := url.Parse(s)
		switch {
		case err != nil || u.User != nil || u.RawQuery != "" || u.Fragment != "":
			return "", fmt.Errorf("is not a URL, or has a user, a query or a fragment (try %s)", example)
		case (u.Scheme != "http" && u.Scheme != "https") || u.Hostname() == "":
			return "", fmt.Errorf("%q is not an absolute http or https URL (try %s)", s, example)
		}
		return s, nil
	}, format: same}
}

// legalName is a legal name for a topic or an instance id in Kafka.
func legalName() kind[string] {
	return kind[string]{word: "name", parse: func(s string) (string, error) { return s, topics.CheckName(s) },
		format: same}
}

// network is a CIDR, or one address. IPv4 in IPv6 form (::ffff:10.0.0.0/104) becomes IPv4, as the addresses do that are
// looked up in it.
func network() kind[netip.Prefix] {
	return kind[netip.Prefix]{word: "CIDR", parse: func(s string) (netip.Prefix, error) {
		if addr, err := netip.ParseAddr(s); err == nil && addr.Zone() == "" {
			addr = addr.Unmap()
			return netip.PrefixFrom(addr, addr.BitLen()), nil
		}
		p, err := netip.ParsePrefix(s)
		if err != nil {
			return netip.Prefix{}, fmt.Errorf("%q is neither a network nor an address (try 10.0.0.0/8)", s)
		}
		if p.Addr().Is4In6() && p.Bits() >= 96 {
			p = netip.PrefixFrom(p.Addr().Unmap(), p.Bits()-96)
		}
		return p.Masked(), nil
	}, format: netip.Prefix.String}
}

func noEmptyKey(keys [][]byte) error {
	for _, k := range keys {
		if k == nil {
			return errors.New("contains an empty key")
		}
	}
	return nil
}

// nat64 is a prefix of RFC 6052, in which IPv4 addresses are embedded.
func nat64() kind[netip.Prefix] {
	return kind[netip.Prefix]{word: "CIDR", parse: func(s string) (netip.Prefix, error) {
		p, err := netip.ParsePrefix(s)
		if err != nil || !p.Addr().Is6() || !slices.Contains([]int{32, 40, 48, 56, 64, 96}, p.Bits()) {
			return netip.Prefix{}, fmt.Errorf("%q is not a NAT64 prefix (an IPv6 network of length 32, 40, 48, 56, 64 or 96, "+
				"as in 2001:db8:64::/96)", s)
		}
		return p.Masked(), nil
	}, format: netip.Prefix.String}
}

// portRange is a port, or two with a dash between them.
func portRange() kind[PortRange] {
	return kind[PortRange]{word: "port", parse: func(s string) (PortRange, error) {
		first, last, ranged := strings.Cut(s, "-")
		if !ranged {
			last = first
		}
		from, err := strconv.ParseUint(first, 10, 16)
		to, errTo := strconv.ParseUint(last, 10, 16)
		if err != nil || errTo != nil || from == 0 || from > to {
			return PortRange{}, fmt.Errorf("%q is not a port from 1 to 65535 or a range of them (as in 443 or 8000-8999)", s)
		}
		return PortRange{uint16(from), uint16(to)}, nil
	}, format: func(r PortRange) string {
		if r.First == r.Last {
			return strconv.Itoa(int(r.First))
		}
		return fmt.Sprintf("%d-%d", r.First, r.Last)
	}}
}

// key is a secret: its errors never repeat the text.
func key() kind[[]byte] {
	return bytesOf(func(n int) string {
		if n != keyBytes {
			return fmt.Sprintf("is %d bytes long, not %d", n, keyBytes)
		}
		return ""
	})
}

// longKey is like key, for keys that may be longer.
func longKey() kind[[]byte] {
	return bytesOf(func(n int) string {
		if n < keyBytes {
			return fmt.Sprintf("is %d bytes long, not %d or more", n, keyBytes)
		}
		return ""
	})
}

// bytesOf is bytes in base64, or "" for none. problem returns what is wrong with their number, or "".
func bytesOf(problem func(n int) string) kind[[]byte] {
	return kind[[]byte]{word: "base64", parse: func(s string) ([]byte, error) {
		s = strings.TrimRight(strings.TrimSpace(s), "=")
		if s == "" {
			return nil, nil
		}
		s = strings.NewReplacer("-", "+", "_", "/").Replace(s)
		b, err := base64.RawStdEncoding.DecodeString(s)
		if err != nil {
			return nil, fmt.Errorf("is not base64 (make one with `openssl rand -base64 %d`)", keyBytes)
		}
		if wrong := problem(len(b)); wrong != "" {
			return nil, fmt.Errorf("%s (make one with `openssl rand -base64 %d`)", wrong, keyBytes)
		}
		return b, nil
	}, format: base64.StdEncoding.EncodeToString}
}

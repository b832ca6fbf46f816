package webhook

import (
	"encoding/base64"
	"errors"
	"net"
	"net/url"
	"strconv"
	"strings"
	"unicode"
	"unicode/utf8"

	"golang.org/x/net/http/httpguts"
	"golang.org/x/net/idna"
)

// Limits on what a user may set.
const (
	maxURL  = 2048 // bytes
	maxAuth = 32   // characters
	maxHost = 1024 // bytes; a name in the DNS has 253, and converting longer ones takes the square of their length
)

// Endpoint is one user's URL of one kind, taken apart for requests.
type Endpoint struct {
	// Address is the host:port to dial. It is "" when the configured text is no
	// usable http or https URL; an attempt then fails as Network.
	Address string
	// ServerName is whose certificate is asked for; "" = http.
	ServerName string
	// Host is the Host header, Target what stands in the request line. Both are
	// plain ASCII.
	Host, Target string
	// Authorization is the header's value, "" for none. It is a secret.
	Authorization string
}

// Settings are one user's endpoints; nil stands for one that is not configured.
type Settings struct {
	UserID    int64
	Endpoints [NumKinds]*Endpoint
}

// NewSettings prepares a user's settings as they are stored: "" is a URL that
// is not configured, auth is "user:pass" or "" and goes with the DLR alone.
func NewSettings(userID int64, urls [NumKinds]string, auth string) *Settings {
	s := &Settings{UserID: userID}
	for kind, raw := range urls {
		if raw != "" {
			s.Endpoints[kind] = NewEndpoint(raw)
		}
	}
	if dlr := s.Endpoints[DLR]; dlr != nil && auth != "" {
		if !strings.Contains(auth, ":") {
			auth += ":" // the header needs the colon; the password is empty
		}
		dlr.Authorization = "Basic " + base64.StdEncoding.EncodeToString([]byte(auth))
	}
	return s
}

// NewEndpoint takes a URL apart. Text that ValidateURL would refuse is taken as
// far as it can be used: a fragment and credentials in a URL are dropped.
func NewEndpoint(raw string) *Endpoint {
	u, err := url.Parse(raw)
	if err != nil || !isWeb(u) {
		return &Endpoint{}
	}
	name, err := toASCII(u.Hostname())
	if err != nil || name == "" { // a host of ignored characters alone is mapped to nothing
		return &Endpoint{}
	}
	port, secure := u.Port(), u.Scheme == "https"
	if port == "" {
		port = "80"
		if secure {
			port = "443"
		}
	}
	// One text for all three, since there may be very many endpoints.
	e := &Endpoint{Address: net.JoinHostPort(name, port)}
	e.Host = e.Address
	if u.Port() == "" {
		e.Host = e.Address[:len(e.Address)-len(port)-1]
	}
	if zone := strings.IndexByte(e.Host, '%'); zone >= 0 { // of an IPv6 address; it means nothing to the peer
		end := strings.IndexByte(e.Host, ']')
		if end < zone {
			return &Endpoint{} // a name with an escaped percent sign, which net/url lets pass
		}
		e.Host = e.Host[:zone] + e.Host[end:]
	}
	if !httpguts.ValidHostHeader(e.Host) {
		return &Endpoint{}
	}
	if secure {
		e.ServerName = name
		if strings.HasPrefix(e.Address, name) {
			e.ServerName = e.Address[:len(name)]
		}
	}
	u.RawQuery = escapeQuery(u.RawQuery)
	e.Target = strings.Clone(u.RequestURI()) // not a piece of raw, which would keep all of it
	return e
}

// toASCII gives the name that is asked for in the DNS (IDNA).
func toASCII(host string) (string, error) {
	if len(host) > maxHost {
		return "", errors.New("host is too long")
	}
	for i := range len(host) {
		if host[i] >= utf8.RuneSelf {
			return idna.Lookup.ToASCII(host)
		}
	}
	return host, nil
}

// escapeQuery escapes what may not stand in a request line. Unlike the path,
// net/url keeps a query as it is, blanks included.
func escapeQuery(query string) string {
	const hex = "0123456789ABCDEF"
	var out strings.Builder
	for i := range len(query) {
		if c := query[i]; c <= ' ' || c >= 0x7F || c == '"' {
			out.Write([]byte{'%', hex[c>>4], hex[c&15]})
		} else {
			out.WriteByte(c)
		}
	}
	return out.String()
}

func isWeb(u *url.URL) bool {
	// net/url takes a bracket that was not opened for a part of a name.
	return (u.Scheme == "http" || u.Scheme == "https") && u.Hostname() != "" && !strings.ContainsAny(u.Hostname(), "[]")
}

// ValidateURL says whether a user may set raw as a URL: absolute http or https
// with a host, no credentials, no fragment, at most 2,048 bytes. The error's
// text starts with "must" and does not repeat raw.
func ValidateURL(raw string) error {
	if len(raw) > maxURL {
		return errors.New("must be at most 2048 bytes")
	}
	u, err := url.Parse(raw)
	if err != nil || !isWeb(u) || !utf8.ValidString(raw) {
		return errors.New("must be an absolute http or https URL")
	}
	if port := u.Port(); port != "" {
		if n, err := strconv.ParseUint(port, 10, 16); err != nil || n == 0 {
			return errors.New("must have a port from 1 to 65535")
		}
	}
	if u.User != nil {
		return errors.New("must not contain credentials")
	}
	if strings.Contains(raw, "#") {
		return errors.New("must not contain a fragment")
	}
	if NewEndpoint(raw).Address == "" {
		return errors.New("must have a host that can be called")
	}
	return nil
}

// ValidateAuth says whether a user may set raw as auth: user:pass with a user,
// at most 32 characters, no control characters. The error's text starts with
// "must" and does not repeat raw.
func ValidateAuth(raw string) error {
	if !utf8.ValidString(raw) {
		return errors.New("must be valid UTF-8")
	}
	if utf8.RuneCountInString(raw) > maxAuth {
		return errors.New("must be at most 32 characters")
	}
	if strings.ContainsFunc(raw, unicode.IsControl) {
		return errors.New("must not contain control characters")
	}
	if user, _, found := strings.Cut(raw, ":"); !found || user == "" {
		return errors.New("must be user:pass with a non-empty user")
	}
	return nil
}

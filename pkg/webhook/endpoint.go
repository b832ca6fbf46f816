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
	maxHost = 1024 // bytes; a DNS name has at most 253, and IDNA conversion takes time quadratic in the length
)

// Endpoint is one user's URL of one kind, parsed for requests.
type Endpoint struct {
	// Address is the host:port to dial. It is "" if the configured text is not a usable http or https URL. An attempt
	// then fails as Network.
	Address string
	// ServerName is the name that the TLS certificate must have. It is "" for http.
	ServerName string
	// Host is the value of the Host header, in ASCII.
	Host string
	// Target is the path and query in the request line, in ASCII.
	Target string
	// Authorization is the value of the Authorization header, "" for none. It is a secret.
	Authorization string
	// Statuses are the statuses of the receipts that are sent.
	Statuses Statuses
	// Failover is called when a request to this endpoint fails, nil for none. It has no Failover and no Paused.
	Failover *Endpoint
	// Paused holds its events back: no attempt starts.
	Paused bool
	// Latest skips a delayed receipt if a later one of its message was delivered.
	Latest bool
	// Secrets sign its requests, nil for none. All endpoints of a user share them.
	Secrets *Secrets
}

// Hostname returns the host of the URL without its port, "" if the URL is not usable.
func (e *Endpoint) Hostname() string { return Hostname(e.Host) }

// Hostname returns a Host header's value without its port.
func Hostname(host string) string { return (&url.URL{Host: host}).Hostname() }

// Settings holds the endpoints of one user.
type Settings struct {
	UserID int64
	// Endpoints holds the endpoint of each kind, nil if none is configured.
	Endpoints [NumKinds]*Endpoint
}

// Paused reports whether the user has a URL of the kind and has paused it.
func (s *Settings) Paused(kind Kind) bool { e := s.Endpoints[kind]; return e != nil && e.Paused }

// NewSettings parses a user's settings as they are stored. An empty URL is not configured. auth is "user:pass" or "".
// It is sent with delivery receipts only.
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

// Sign signs all requests with secrets.
func (s *Settings) Sign(secrets *Secrets) {
	for _, endpoint := range s.Endpoints {
		if endpoint != nil {
			endpoint.Secrets = secrets
		}
	}
}

// FailOver sets the URL that is called when a request fails. It has the endpoint's credentials and secrets, so it
// is called after [Settings.Sign].
func (e *Endpoint) FailOver(raw string) {
	e.Failover = NewEndpoint(raw)
	e.Failover.Authorization, e.Failover.Secrets = e.Authorization, e.Secrets
}

// NewEndpoint parses a URL. It is more lenient than [ValidateURL]: it drops a fragment and credentials.
func NewEndpoint(raw string) *Endpoint {
	u, err := url.Parse(raw)
	if err != nil || !isWeb(u) {
		return &Endpoint{}
	}
	name, err := toASCII(u.Hostname())
	if err != nil || name == "" { // IDNA maps a host of nothing but ignored characters to ""
		return &Endpoint{}
	}
	port, secure := u.Port(), u.Scheme == "https"
	if port == "" {
		port = "80"
		if secure {
			port = "443"
		}
	}
	// Address, Host and ServerName share one string, since there may be very many endpoints.
	e := &Endpoint{Address: net.JoinHostPort(name, port)}
	e.Host = e.Address
	if u.Port() == "" {
		e.Host = e.Address[:len(e.Address)-len(port)-1]
	}
	if zone := strings.IndexByte(e.Host, '%'); zone >= 0 { // of an IPv6 address, without meaning to the peer
		end := strings.IndexByte(e.Host, ']')
		if end < zone {
			return &Endpoint{} // a name with an escaped percent sign, which net/url accepts
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
	e.Target = strings.Clone(u.RequestURI()) // a substring would keep all of raw in memory
	return e
}

// toASCII returns the name to look up in the DNS (IDNA).
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

// escapeQuery escapes the bytes that a request line must not contain. Unlike the path, net/url leaves a query
// unchanged, even its spaces.
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

// isWeb reports whether u is an absolute http or https URL with a host.
func isWeb(u *url.URL) bool {
	// net/url accepts a closing bracket without an opening one as part of a name.
	return (u.Scheme == "http" || u.Scheme == "https") && u.Hostname() != "" && !strings.ContainsAny(u.Hostname(), "[]")
}

// ValidateURL returns an error unless a user may set raw as a URL: absolute http or https, with a host, no credentials,
// no fragment, no white space at its ends, at most 2,048 bytes. The error's text starts with "must" and does not
// contain raw.
func ValidateURL(raw string) error {
	if len(raw) > maxURL {
		return errors.New("must be at most 2048 bytes")
	}
	if strings.TrimSpace(raw) != raw { // of a pasted text; net/url escapes that at the end
		return errors.New("must not begin or end with white space")
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

// ValidateAuth returns an error unless a user may set raw as auth: user:pass with a non-empty user, at most 32
// characters, no control characters. The error's text starts with "must" and does not contain raw.
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

package webhook

import (
	"encoding/base64"
	"errors"
	"net/url"
	"strconv"
	"strings"
	"unicode"
	"unicode/utf8"
)

// Limits on what a user may set.
const (
	maxURL  = 2048 // bytes
	maxAuth = 32   // characters
)

// Endpoint is one user's URL of one kind, ready for requests.
type Endpoint struct {
	// URL is nil when the configured text is no usable http or https URL; an
	// attempt then fails as Network.
	URL *url.URL
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
// Text that ValidateURL would refuse is taken as far as it can be used: a
// fragment and credentials in a URL are dropped.
func NewSettings(userID int64, urls [NumKinds]string, auth string) *Settings {
	s := &Settings{UserID: userID}
	for kind, raw := range urls {
		if raw != "" {
			s.Endpoints[kind] = &Endpoint{URL: usable(raw)}
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

// usable returns the URL without credentials and fragment, nil if no request
// can be sent to it.
func usable(raw string) *url.URL {
	u, err := url.Parse(raw)
	if err != nil || !isWeb(u) {
		return nil
	}
	u.User, u.Fragment, u.RawFragment = nil, "", ""
	u.RawQuery = escapeQuery(u.RawQuery)
	return u
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
	return (u.Scheme == "http" || u.Scheme == "https") && u.Hostname() != ""
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

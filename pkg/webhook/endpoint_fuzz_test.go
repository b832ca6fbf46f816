package webhook

import (
	"encoding/base64"
	"net"
	"net/url"
	"strings"
	"testing"
)

// sendable says what of an endpoint could break out of a request's head, "" if nothing.
func sendable(e *Endpoint) string {
	for what, text := range map[string]string{"Host": e.Host, "request target": e.Target, "address": e.Address, "server name": e.ServerName} {
		for _, c := range []byte(text) {
			if c <= ' ' || c >= 0x7F && what != "address" { // a zone may be called anything
				return what + " " + text
			}
		}
	}
	return ""
}

// FuzzURL holds what a user may set, and what other programs may store, against what can be sent.
func FuzzURL(f *testing.F) {
	for _, raw := range []string{
		"http://example.com", "HTTPS://EXAMPLE.com:8443/a/b%20c?q=1&r=;", "http://[::1%25eth0]:80/", "http://bücher.example/ü?ü=ü",
		"http://user:pass@example.com/", "http://example.com/#", "http://example.com\\@127.0.0.1/", "http://example.com/\r\nHost: x",
		"http://127.1/", "http://0x7f.1/", "http://[::ffff:127.0.0.1]/", "http://a.b:0/", "http://a:99999/", "//a/", "http:a", "http://%zz/",
		"http://example.com/?a b\r\nx: y", "http://exa\tmple.com", "http://example.com:80:80/", "http://[::1]@a/", "http://a?b#c",
		"http://a%25b/", "http://a%25:80/", "https://100%25off.example/", "http://%25/", "http://[::1]%25a/", "http://\u034f", "https://\u00ad:1/", "http://\u034f.\u00ad/",
	} {
		f.Add(raw)
	}
	f.Fuzz(func(t *testing.T, raw string) {
		err := ValidateURL(raw)
		e := NewEndpoint(raw)
		if bad := sendable(e); bad != "" {
			t.Fatalf("%q would be sent with %q", raw, bad)
		}
		if e.Address != "" {
			host, port, splitErr := net.SplitHostPort(e.Address)
			if splitErr != nil || host == "" || port == "" || e.Host == "" || !strings.HasPrefix(e.Target, "/") && !strings.HasPrefix(e.Target, "?") && e.Target != "*" {
				t.Fatalf("%q became %+v (%v)", raw, e, splitErr)
			}
		}
		if err != nil {
			if text := err.Error(); !strings.HasPrefix(text, "must") || len(text) > 60 {
				t.Fatalf("%q: %q", raw, text)
			}
			return
		}
		if e.Address == "" {
			t.Fatalf("%q may be set but not used", raw)
		}
		if len(raw) > 2048 || strings.ContainsAny(raw, "#\r\n\t\x00") {
			t.Fatalf("%q may be set", raw)
		}
		// What was checked is what is dialled: the host is the one the URL shows.
		u, err := url.Parse(raw)
		if err != nil || u.User != nil {
			t.Fatalf("%q may be set: %v", raw, err)
		}
		if ascii, err := toASCII(u.Hostname()); err != nil || !strings.HasPrefix(e.Address, ascii+":") && !strings.HasPrefix(e.Address, "["+ascii+"]:") {
			t.Fatalf("%q is dialled at %q (%v)", raw, e.Address, err)
		}
	})
}

// FuzzAuth: what may be set is what is sent.
func FuzzAuth(f *testing.F) {
	for _, raw := range []string{"user:pass", "user:", ":x", "ü:ö", "a\r\nb:c", "user", "\xff:", "a:b:c", strings.Repeat("x", 31) + ":"} {
		f.Add(raw)
	}
	f.Fuzz(func(t *testing.T, raw string) {
		err := ValidateAuth(raw)
		sent := NewSettings(1, [NumKinds]string{DLR: "http://a", Click: "http://a", Inbound: "http://a", RevokeClick: "http://a"}, raw)
		for _, kind := range []Kind{Click, Inbound, RevokeClick} {
			if sent.Endpoints[kind].Authorization != "" {
				t.Fatalf("%v carries credentials", kind)
			}
		}
		header := sent.Endpoints[DLR].Authorization
		if err != nil {
			if strings.ContainsAny(header, "\r\n") {
				t.Fatalf("%q would be sent as %q", raw, header)
			}
			return
		}
		text, err := base64.StdEncoding.DecodeString(strings.TrimPrefix(header, "Basic "))
		if user, _, found := strings.Cut(string(text), ":"); err != nil || string(text) != raw || !found || user == "" {
			t.Fatalf("%q is sent as %q", raw, header)
		}
	})
}

package webhook

import (
	"encoding/base64"
	"net"
	"net/url"
	"strings"
	"testing"
)

// unsendable returns the part of an endpoint that could break out of a request's head, or "".
func unsendable(e *Endpoint) string {
	for what, text := range map[string]string{"Host": e.Host, "request target": e.Target, "address": e.Address, "server name": e.ServerName} {
		for _, c := range []byte(text) {
			if c <= ' ' || c >= 0x7F && what != "address" { // a zone can have any name
				return what + " " + text
			}
		}
	}
	return ""
}

// FuzzURL checks that no URL, whether set by a user or stored by another program, can break a request.
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
		if bad := unsendable(e); bad != "" {
			t.Fatalf("%q would be sent with the unsafe part %q", raw, bad)
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
			t.Fatalf("%q is valid but cannot be used", raw)
		}
		if len(raw) > 2048 || strings.ContainsAny(raw, "#\r\n\t\x00") {
			t.Fatalf("%q is valid", raw)
		}
		// The host that was validated is the host that is dialled.
		u, err := url.Parse(raw)
		if err != nil || u.User != nil {
			t.Fatalf("%q is valid: %v", raw, err)
		}
		if ascii, err := toASCII(u.Hostname()); err != nil || !strings.HasPrefix(e.Address, ascii+":") && !strings.HasPrefix(e.Address, "["+ascii+"]:") {
			t.Fatalf("%q is dialled at %q (%v)", raw, e.Address, err)
		}
	})
}

// FuzzAuth checks that every valid auth is sent unchanged.
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

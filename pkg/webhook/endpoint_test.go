package webhook

import (
	"strings"
	"testing"
)

func TestValidateURL(t *testing.T) {
	const notWeb = "must be an absolute http or https URL"
	tests := []struct{ raw, want string }{
		{"http://example.com", ""},
		{"https://example.com/", ""},
		{"HTTPS://EXAMPLE.com:8443/a/b%20c?q=1&r=;", ""},
		{"http://127.0.0.1:8080/x", ""},
		{"http://[::1]:80/", ""},
		{"http://bücher.example/ü", ""},
		{"http://" + strings.Repeat("ü", 900) + "/", "must have a host that can be called"},
		{"http://a%25b/", "must have a host that can be called"},
		{"https://100%25off.example/", "must have a host that can be called"},
		{"http://example.com/" + strings.Repeat("a", 2048-19), ""},
		{"http://example.com/" + strings.Repeat("a", 2049-19), "must be at most 2048 bytes"},
		{"", notWeb},
		{"example.com", notWeb},
		{"//example.com/", notWeb},
		{"/path", notWeb},
		{"ftp://example.com/", notWeb},
		{"javascript:alert(1)", notWeb},
		{"http:example.com", notWeb},
		{"http://", notWeb},
		{"http:///path", notWeb},
		{"http://:80/", notWeb},
		{"http://\u034f/", "must have a host that can be called"},
		{"http://exa mple.com/", notWeb},
		{"http://]", notWeb},
		{"http://a]b/", notWeb},
		{" http://example.com/", "must not begin or end with white space"},
		{"http://example.com/ ", "must not begin or end with white space"},
		{"http://example.com/\n", "must not begin or end with white space"},
		{"http://example.com/\u00a0", "must not begin or end with white space"},
		{"http://example.com/a b", ""},
		{"http://example.com/\xff", notWeb},
		{"http://example.com:port/", notWeb},
		{"http://example.com:0/", "must have a port from 1 to 65535"},
		{"http://example.com:65536/", "must have a port from 1 to 65535"},
		{"http://user:pass@example.com/", "must not contain credentials"},
		{"http://user@example.com/", "must not contain credentials"},
		{"http://@example.com/", "must not contain credentials"},
		{"http://example.com/#top", "must not contain a fragment"},
		{"http://example.com/#", "must not contain a fragment"},
	}
	for _, tt := range tests {
		got := ""
		if err := ValidateURL(tt.raw); err != nil {
			got = err.Error()
		}
		if got != tt.want {
			t.Errorf("ValidateURL(%.60q) = %q, want %q", tt.raw, got, tt.want)
		}
	}
}

func TestValidateAuth(t *testing.T) {
	const form = "must be user:pass with a non-empty user"
	tests := []struct{ raw, want string }{
		{"user:pass", ""},
		{"user:", ""},
		{"user:pa:ss", ""},
		{"ü:" + strings.Repeat("ö", 30), ""},
		{"ü:" + strings.Repeat("ö", 31), "must be at most 32 characters"},
		{"", form},
		{"user", form},
		{":pass", form},
		{":", form},
		{"user:pa\tss", "must not contain control characters"},
		{"us\r\ner:pass", "must not contain control characters"},
		{"user:\u0085", "must not contain control characters"},
		{"user:\xff", "must be valid UTF-8"},
	}
	for _, tt := range tests {
		got := ""
		if err := ValidateAuth(tt.raw); err != nil {
			got = err.Error()
		}
		if got != tt.want {
			t.Errorf("ValidateAuth(%q) = %q, want %q", tt.raw, got, tt.want)
		}
	}
}

func TestNewSettings(t *testing.T) {
	s := NewSettings(42, [NumKinds]string{DLR: "https://example.com/dlr", Click: "https://u:p@example.com/c?x=1#top"}, "user:pa:ss")
	if s.UserID != 42 || s.Endpoints[Inbound] != nil || s.Endpoints[RevokeClick] != nil {
		t.Errorf("settings %+v", s)
	}
	if got := s.Endpoints[DLR]; shown(got) != "https://example.com:443 example.com /dlr" || got.Authorization != "Basic dXNlcjpwYTpzcw==" {
		t.Errorf("dlr: %+v", got)
	}
	if got := s.Endpoints[Click]; shown(got) != "https://example.com:443 example.com /c?x=1" || got.Authorization != "" {
		t.Errorf("click: %+v", got)
	}
}

// shown formats an endpoint's address, host and target.
func shown(e *Endpoint) string {
	if e.Address == "" {
		return ""
	}
	scheme := "http://"
	if e.ServerName != "" {
		scheme = "https://"
	}
	return scheme + e.Address + " " + e.Host + " " + e.Target
}

func TestStoredText(t *testing.T) {
	tests := []struct{ raw, want string }{ // want "": not a usable URL
		{"http://example.com/a?q=a b\u00e9&r=%20;\"", "http://example.com:80 example.com /a?q=a%20b%C3%A9&r=%20;%22"},
		{"http://example.com/a b", "http://example.com:80 example.com /a%20b"},
		{"http://example.com/#", "http://example.com:80 example.com /"},
		{"http://example.com", "http://example.com:80 example.com /"},
		{"HTTP://Example.com:80?a", "http://Example.com:80 Example.com:80 /?a"},
		{"https://example.com:8443/", "https://example.com:8443 example.com:8443 /"},
		{"http://u:p@example.com/a%2Fb", "http://example.com:80 example.com /a%2Fb"},
		{"http://b\u00fccher.example/", "http://xn--bcher-kva.example:80 xn--bcher-kva.example /"},
		{"https://[2001:db8::1]/", "https://[2001:db8::1]:443 [2001:db8::1] /"},
		{"http://[fe80::1%25eth0]:81/", "http://[fe80::1%eth0]:81 [fe80::1]:81 /"},
		{"example.com", ""},
		{"ftp://example.com/", ""},
		{"http://%zz/", ""},
		{"http://:80/", ""},
		{"http://a\u2028b/", ""},
		{"http://\u034f/", ""},
	}
	for _, tt := range tests {
		e := NewSettings(1, [NumKinds]string{Inbound: tt.raw}, "").Endpoints[Inbound]
		if got := shown(e); got != tt.want {
			t.Errorf("%q became %q, want %q", tt.raw, got, tt.want)
		}
	}
	e := NewSettings(1, [NumKinds]string{DLR: "http://example.com"}, "user").Endpoints[DLR]
	if e.Authorization != "Basic dXNlcjo=" {
		t.Errorf("auth without a colon: %q", e.Authorization)
	}
}

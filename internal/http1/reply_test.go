package http1

import (
	"bufio"
	"bytes"
	"io"
	"net/http"
	"strings"
	"testing"
)

func TestParseHead(t *testing.T) {
	tests := []struct {
		name, text string
		want       head
		ok         bool
	}{
		{"plain", "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok", head{200, 38, 2, false, -1}, true},
		{"no reason", "HTTP/1.1 200\r\nContent-Length: 0\r\n\r\n", head{200, 35, 0, false, -1}, true},
		{"any case, blanks", "HTTP/1.1 503 x\r\nDATE: y\r\ncontent-length: \t 7 \r\n\r\n", head{503, 49, 7, false, -1}, true},
		{"connection: close", "HTTP/1.1 200 OK\r\nConnection: Close\r\nContent-Length: 0\r\n\r\n", head{200, 57, 0, true, -1}, true},
		{"connection: keep-alive", "HTTP/1.1 200 OK\r\nConnection: keep-alive\r\nContent-Length: 0\r\n\r\n", head{200, 62, 0, false, -1}, true},
		{"204", "HTTP/1.1 204 No\r\n\r\n", head{204, 19, 0, false, -1}, true},
		{"304 with a length of 0", "HTTP/1.1 304 No\r\nContent-Length: 0\r\n\r\n", head{304, 38, 0, false, -1}, true},
		{name: "204 with a length", text: "HTTP/1.1 204 No\r\nContent-Length: 9\r\n\r\n"},
		{"keep-alive with timeout", "HTTP/1.1 200 OK\r\nKeep-Alive: max=100, timeout=5\r\nContent-Length: 0\r\n\r\n", head{200, 70, 0, false, 5}, true},
		{"keep-alive without timeout", "HTTP/1.1 200 OK\r\nKeep-Alive: x\r\nContent-Length: 0\r\n\r\n", head{200, 53, 0, false, -1}, true},
		{"identity", "HTTP/1.1 200 OK\r\nTransfer-Encoding: Identity\r\nContent-Length: 1\r\n\r\n", head{200, 67, 1, false, -1}, true},
		{name: "no length", text: "HTTP/1.1 200 OK\r\n\r\n"},
		{name: "chunks", text: "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nContent-Length: 2\r\n\r\n"},
		{name: "two lengths", text: "HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 2\r\n\r\n"},
		{name: "signed length", text: "HTTP/1.1 200 OK\r\nContent-Length: +2\r\n\r\n"},
		{name: "list of lengths", text: "HTTP/1.1 200 OK\r\nContent-Length: 2, 2\r\n\r\n"},
		{name: "empty length", text: "HTTP/1.1 200 OK\r\nContent-Length:\r\n\r\n"},
		{name: "huge length", text: "HTTP/1.1 200 OK\r\nContent-Length: 9999999999999999999\r\n\r\n"},
		{name: "blank before the colon", text: "HTTP/1.1 200 OK\r\nContent-Length : 2\r\n\r\n"},
		{name: "folded", text: "HTTP/1.1 200 OK\r\nX: a\r\n Content-Length: 2\r\n\r\n"},
		{name: "bare line feeds", text: "HTTP/1.1 200 OK\nContent-Length: 2\n\n"},
		{name: "interim", text: "HTTP/1.1 100 Continue\r\n\r\n"},
		{name: "old", text: "HTTP/1.0 200 OK\r\nContent-Length: 2\r\n\r\n"},
		{name: "upgrade", text: "HTTP/1.1 200 OK\r\nConnection: Upgrade\r\nContent-Length: 0\r\n\r\n"},
		{name: "half", text: "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n"},
		{name: "no colon", text: "HTTP/1.1 200 OK\r\nContent-Length 2\r\n\r\n"},
		{name: "four digits", text: "HTTP/1.1 2000 OK\r\nContent-Length: 0\r\n\r\n"},
		{name: "not HTTP", text: "SSH-2.0\r\n\r\n"},
		{name: "nothing"},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			got, ok := parseHead([]byte(test.text))
			if ok != test.ok || ok && got != test.want {
				t.Errorf("%+v, %v, want %+v, %v", got, ok, test.want, test.ok)
			}
		})
	}
	text := []byte(tests[0].text)
	if n := testing.AllocsPerRun(100, func() { parseHead(text) }); n != 0 {
		t.Errorf("%v allocations, want none", n)
	}
}

// FuzzParseHead checks that net/http accepts every head that parseHead accepts, and parses it the same way.
func FuzzParseHead(f *testing.F) {
	for _, text := range []string{
		"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok", "HTTP/1.1 204 No\r\nConnection: close\r\n\r\n",
		"HTTP/1.1 500 \r\nX:\r\nConnection:keep-alive\r\ncontent-length:03\r\n\r\nabcHTTP/1.1", "HTTP/1.1 304 a\r\nContent-Length: 1\r\n\r\n",
	} {
		f.Add([]byte(text))
	}
	f.Fuzz(func(t *testing.T, text []byte) {
		h, ok := parseHead(text)
		if !ok {
			return
		}
		if h.size > len(text) || !bytes.HasSuffix(text[:h.size], []byte("\r\n\r\n")) {
			t.Fatalf("%q: a head of %d bytes", text, h.size)
		}
		rest := bufio.NewReader(bytes.NewReader(text))
		usual, err := readHead(rest)
		if err != nil {
			t.Fatalf("%q: %v", text, err)
		}
		resp, err := http.ReadResponse(bufio.NewReader(io.MultiReader(bytes.NewReader(usual), rest)), post)
		if err != nil {
			// net/http also validates fields that do not matter here, and rejects the whole head.
			if strings.Contains(err.Error(), "malformed MIME header") {
				return
			}
			t.Fatalf("%q: %v", text, err)
		}
		length := resp.ContentLength
		if bodiless(h.status) {
			length = 0
		}
		if resp.StatusCode != h.status || length != h.length || resp.Close != h.close {
			t.Fatalf("%q: %+v, net/http says %d, %d bytes, close %v", text, h, resp.StatusCode, length, resp.Close)
		}
	})
}

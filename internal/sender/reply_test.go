package sender

import (
	"encoding/base64"
	"fmt"
	"html"
	"net"
	"net/url"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/smshooks/smshooks/pkg/webhook"
	"github.com/smshooks/smshooks/test/peer"
)

// TestReplyOfAFailure checks that the beginning of a failed reply's body is kept, however the reply is framed.
func TestReplyOfAFailure(t *testing.T) {
	long := strings.Repeat("0123456789abcdef", 1<<10) // 16 KiB
	reply := func(status int, body string) string {
		return fmt.Sprintf("HTTP/1.1 %d x\r\nContent-Length: %d\r\n\r\n%s", status, len(body), body)
	}
	for _, c := range []struct {
		name   string
		answer func(net.Conn, int32) bool
		want   string
	}{
		{"with a length", peer.Says(reply(503, "no such user")), "no such user"},
		{"without a body", peer.Says(reply(503, "")), ""},
		{"1 KiB", peer.Says(reply(500, long[:1024])), long[:1024]},
		{"1 KiB and a byte", peer.Says(reply(500, long[:1025])), long[:1024]},
		{"16 KiB", peer.Says(reply(500, long)), long[:1024]},
		{"more than its length", peer.Says(reply(500, "no") + "HTTP/1.1 200 OK\r\n"), "no"},
		{"in chunks", peer.Says("HTTP/1.1 500 x\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nno\r\n3\r\n, I\r\n0\r\n\r\n"), "no, I"},
		{"until closed", peer.SaysAndCloses("HTTP/1.1 404 x\r\n\r\nnot here"), "not here"},
		{"cut off", peer.SaysAndCloses("HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nok"), "ok"},
		{"not UTF-8", peer.Says(reply(400, "a\xffb")), "a\uFFFDb"},
		{"a success", peer.Says(reply(200, "fine")), ""},
		{"none", peer.SaysAndCloses(""), ""},
	} {
		s := newSender(t, nil)
		p := peer.New(t, c.answer)
		for range 2 { // the second request reuses the memory, and may reuse the connection
			if out := s.Send(t.Context(), request(t, p.URL)); out.Reply != c.want {
				t.Errorf("%s: %q is kept, want %q", c.name, out.Reply, c.want)
			}
		}
		refused := request(t, "http://127.0.0.1:1")
		if out := s.Send(t.Context(), refused); out.Failure != webhook.ConnectionRefused || out.Reply != "" {
			t.Errorf("%s: a refused connection after it has the reply %q", c.name, out.Reply)
		}
	}
}

// TestReplyShowsNoCredentials checks that an error page with the request's headers does not put credentials into the
// delivery log, in whatever form and wherever the page shows them.
func TestReplyShowsNoCredentials(t *testing.T) {
	const plain = "customer:S3cret?>~~+/"
	encoded := base64.StdEncoding.EncodeToString([]byte(plain)) // has / and =
	escaped := strings.NewReplacer("/", `\/`, "=", `\u003d`, "+", `\u002B`).Replace(encoded)
	for _, c := range []struct{ says, want string }{
		{"Authorization: Basic " + encoded + "; failed", "Authorization: Basic ***; failed"},
		{`{"authorization":"Basic ` + escaped + `"}`, `{"authorization":"Basic ***"}`},
		{"<b>" + strings.NewReplacer("/", "&#x2F;", "=", "&#61;").Replace(encoded) + "</b>", "<b>***</b>"},
		{"/error?header=Basic%20" + url.QueryEscape(encoded) + "&x", "/error?header=Basic%20***&x"},
		{"login failed for " + plain + ".", "login failed for ***."},
		{"<p>" + html.EscapeString(plain), "<p>***"},
		{"customer used S3cret?>~~+/", "customer used ***"},
		{strings.Repeat("x", 1000) + encoded, strings.Repeat("x", 1000) + mask},
		{strings.Repeat("x", 1020) + encoded, strings.Repeat("x", 1020) + mask},
		{strings.Repeat("x", 1015) + "customer:", strings.Repeat("x", 1015) + mask},
		{"Y3VzdG9tZXI is not it", "Y3VzdG9tZXI is not it"},
		{"no customer", "no ***"}, // may be cut
		{"é&;%\\", "é&;%\\"},
	} {
		p := peer.New(t, peer.Says(fmt.Sprintf("HTTP/1.1 500 x\r\nContent-Length: %d\r\n\r\n%s", len(c.says), c.says)))
		r := request(t, p.URL)
		r.Endpoint.Authorization = "Basic " + encoded
		if out := newSender(t, nil).Send(t.Context(), r); out.Reply != c.want {
			t.Errorf("%q: kept %q, want %q", c.says, out.Reply, c.want)
		}
	}
}

func TestReplyText(t *testing.T) {
	for _, c := range []struct {
		data string
		cut  bool
		want string
	}{
		{"", false, ""}, {"é", false, "é"}, {"é", true, "é"}, {"a\xc3", true, "a"}, {"a\xc3", false, "a\uFFFD"}, {"\xe2\x82", true, ""},
		{"x\xff\xfe", true, "x\uFFFD"}, {strings.Repeat("a\xff", 512), false, strings.Repeat("a\uFFFD", 256)},
		{strings.Repeat("ab\xff", 341), false, strings.Repeat("ab\uFFFD", 204) + "ab"},
	} {
		got := replyText([]byte(c.data), c.cut)
		if got != c.want || len(got) > 1024 || !utf8.ValidString(got) {
			t.Errorf("%q, cut %v: %q, want %q", c.data, c.cut, got, c.want)
		}
	}
}

func FuzzReplyText(f *testing.F) {
	f.Add([]byte("a\xe2\x82"), true)
	f.Fuzz(func(t *testing.T, data []byte, cut bool) {
		data = data[:min(len(data), 1024)]
		text := replyText(data, cut)
		if len(text) > 1024 || !utf8.ValidString(text) {
			t.Errorf("%q becomes %q", data, text)
		}
		if utf8.Valid(data) && text != string(data) {
			t.Errorf("%q is changed to %q", data, text)
		}
	})
}

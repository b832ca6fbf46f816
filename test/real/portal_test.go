package real_test

import (
	"bytes"
	"crypto/rand"
	"encoding/base64"
	"fmt"
	"html"
	"net"
	"net/http"
	"net/http/cookiejar"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/smshooks/smshooks/test/real/harness"
)

// portalExamples are programs that call the functions of docs/operations.md that make links, by language.
var portalExamples = map[string]struct {
	file, around string
	command      []string
}{
	"go": {"link.go", `package main

import (
	"crypto/rand"
	"encoding/base64"
	"fmt"
	"os"
	"strconv"
	"time"

	"github.com/golang-jwt/jwt/v5"
)

%s
func main() {
	secret, _ := base64.StdEncoding.DecodeString(os.Getenv("PORTAL_SECRET"))
	link, err := Link(42, secret)
	if err != nil {
		panic(err)
	}
	fmt.Print(link)
}
`, []string{"go", "-C", "../..", "run"}},
	"php": {"link.php", "<?php\n%s\necho link_for(42, base64_decode(getenv('PORTAL_SECRET')));\n", []string{"php"}},
}

// portalLink creates a link to an instance with the documented example.
func portalLink(t *testing.T, language, secret, addr string) string {
	t.Helper()
	example := portalExamples[language]
	document, err := os.ReadFile("../../docs/operations.md")
	if err != nil {
		t.Fatal(err)
	}
	code := regexp.MustCompile("(?s)```" + language + "\n(.*?)```").FindSubmatch(document)
	if code == nil {
		t.Fatalf("docs/operations.md has no example in %s", language)
	}
	file := filepath.Join(t.TempDir(), example.file)
	if err := os.WriteFile(file, fmt.Appendf(nil, example.around, code[1]), 0o600); err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(t.Context(), example.command[0], append(example.command[1:], file)...)
	cmd.Env = append(os.Environ(), "PORTAL_SECRET="+secret)
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("%s: %v\n%s", language, err, &stderr)
	}
	link := strings.Replace(string(out), "https://hooks.example.com/", "http://"+addr+"/", 1)
	_, token, _ := strings.Cut(link, "?token=")
	harness.Secret(token)
	return link
}

// opened returns what a browser shows at the end of a link's redirects.
func opened(t testing.TB, cl *http.Client, link string) (status int, at, body string) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, link, nil)
	if err != nil {
		t.Fatal(err)
	}
	resp, err := cl.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	var text bytes.Buffer
	_, _ = text.ReadFrom(resp.Body)
	return resp.StatusCode, resp.Request.URL.String(), text.String()
}

// TestPortal checks the sign-in from the platform's own site. A token must work only once, also on two instances at
// once.
func TestPortal(t *testing.T) {
	t.Parallel()
	e := newEnv(t)
	var random [48]byte
	_, _ = rand.Read(random[:])
	secret := base64.StdEncoding.EncodeToString(random[:])
	harness.Secret(secret)
	one := e.serve(t, "--portal.secret="+secret, "--log.level=debug")
	two := e.serve(t, "--portal.secret="+secret, "--log.level=debug")
	for language := range portalExamples {
		jar, err := cookiejar.New(nil)
		if err != nil {
			t.Fatal(err)
		}
		cl := &http.Client{Jar: jar}
		link := portalLink(t, language, secret, one.Addr)
		status, at, body := opened(t, cl, link)
		if status != http.StatusOK || at != "http://"+one.Addr+pagePath || !strings.Contains(body, "User 42") {
			t.Errorf("%s: %d at %s: %.300s", language, status, at, body)
		}
		for _, p := range []*harness.Proc{one, two} {
			again := strings.Replace(link, one.Addr, p.Addr, 1)
			if status, _, body := opened(t, http.DefaultClient, again); status != http.StatusUnauthorized || !strings.Contains(body, "was used before") {
				t.Errorf("%s: used again at %s: %d", language, p.Addr, status)
			}
		}
	}
	tokenRace(t, portalLink(t, "php", secret, one.Addr), one.Addr, two.Addr)
	fromAnotherSite(t, portalLink(t, "php", secret, one.Addr))
	if !strings.Contains(two.Log(), "sign-in with a token refused") {
		t.Error("the log does not report that a token was refused")
	}
}

// tokenRace uses one token at two instances at once.
func tokenRace(t *testing.T, link, one, two string) {
	t.Helper()
	cl := &http.Client{CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
	var signedIn, refused atomic.Int32
	var wg sync.WaitGroup
	for n := range 20 {
		wg.Go(func() {
			at := link
			if n%2 == 1 {
				at = strings.Replace(link, one, two, 1)
			}
			switch status, _, _ := opened(t, cl, at); status {
			case http.StatusSeeOther:
				signedIn.Add(1)
			case http.StatusUnauthorized:
				refused.Add(1)
			}
		})
	}
	wg.Wait()
	if signedIn.Load() != 1 || refused.Load() != 19 {
		t.Errorf("one token, twenty requests: %d signed in, %d refused", signedIn.Load(), refused.Load())
	}
}

// fromAnotherSite follows a link on a page of another site in a real browser, whose rules for cookies then differ.
func fromAnotherSite(t *testing.T, link string) {
	t.Helper()
	site := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		fmt.Fprintf(w, `<!doctype html><title>Platform</title><main><a id="hooks" href="%s">Webhooks</a></main>`, html.EscapeString(link))
	}))
	t.Cleanup(site.Close)
	_, port, err := net.SplitHostPort(site.Listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	b := newTab(t)
	b.open("http://localhost:" + port + "/") // for the browser, another site than 127.0.0.1
	b.press("#hooks")
	b.see("document.body.innerText", "User 42")
	if got := b.eval("location.search + location.hash + document.referrer + history.length"); strings.Contains(got, "token") {
		t.Errorf("the token is still in the browser: %s", got)
	}
	b.clean()
}

package real_test

import (
	"bufio"
	"bytes"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/smshooks/smshooks/test/real/harness"
)

// sampleAuth holds the credentials of the sample receivers for delivery receipts.
const sampleAuth = "ann:s3:cret"

// sample is a running receiver of examples/receivers.
type sample struct {
	addr, dir string
	key       []byte
}

// receiverSamples holds the commands that start the receivers, by language.
var receiverSamples = map[string]func(t *testing.T, s *sample, env []string){
	"php": func(t *testing.T, s *sample, env []string) {
		harness.StartProgram(t, env, "php", "-S", s.addr, sampleFile(t, "php/receiver.php"))
	},
	"node": func(t *testing.T, _ *sample, env []string) {
		harness.StartProgram(t, env, "node", sampleFile(t, "node/receiver.mjs"))
	},
	"python": func(t *testing.T, _ *sample, env []string) {
		harness.StartProgram(t, env, "python3", sampleFile(t, "python/receiver.py"))
	},
	"java": func(t *testing.T, _ *sample, env []string) {
		harness.StartProgram(t, env, "java", "-XX:TieredStopAtLevel=1", sampleFile(t, "java/Receiver.java"))
	},
}

func sampleFile(t *testing.T, name string) string {
	t.Helper()
	path, err := filepath.Abs(filepath.Join("../../examples/receivers", name))
	if err != nil {
		t.Fatal(err)
	}
	return path
}

// startSample starts a receiver with a secret and waits until it answers.
func startSample(t *testing.T, start func(*testing.T, *sample, []string), secret string) *sample {
	t.Helper()
	key, err := base64.StdEncoding.DecodeString(strings.TrimPrefix(secret, "whsec_"))
	if err != nil {
		t.Fatal(err)
	}
	s := &sample{addr: harness.FreeAddr(t), dir: t.TempDir(), key: key}
	_, port, _ := net.SplitHostPort(s.addr)
	start(t, s, []string{"WEBHOOK_SECRET=" + secret, "WEBHOOK_AUTH=" + sampleAuth, "WEBHOOK_DIR=" + s.dir, "PORT=" + port})
	s.waitUntilItAnswers(t)
	return s
}

func (s *sample) waitUntilItAnswers(t *testing.T) {
	t.Helper()
	harness.Eventually(t, time.Minute, func() bool {
		conn, err := net.Dial("tcp", s.addr)
		if err != nil {
			return false
		}
		return conn.Close() == nil
	}, "the receiver at %s listens", s.addr)
}

// event is a request to a receiver. The zero value of a field stands for that of a genuine request.
type event struct {
	method, target, body, id, at string
	sent                         time.Duration                                  // Webhook-Timestamp, from now on
	header                       map[string]string                              // instead of the genuine headers, "" = without
	sign                         func(key []byte, id, sent, body string) string // Webhook-Signature
}

// signature returns the signature that the service sends.
func signature(key []byte, id, sent, body string) string {
	mac := hmac.New(sha256.New, key)
	mac.Write([]byte(id + "." + sent + "." + body))
	return "v1," + base64.StdEncoding.EncodeToString(mac.Sum(nil))
}

// report returns the body of a delivery receipt, or of another event about a message.
func report(message, status string) string {
	return "sms=" + url.QueryEscape(fmt.Sprintf(`{"id":%s,"text":"a \"b\" &+ä","dlr_status":%q}`, message, status))
}

// second returns the time of an event.
func second(n int) string { return fmt.Sprintf("2026-02-27T14:30:%02d.000Z", n) }

// send makes a request and returns the status of the reply. It writes the request line unchanged.
func (s *sample) send(t testing.TB, e event) int {
	t.Helper()
	orElse := func(text *string, otherwise string) {
		if *text == "" {
			*text = otherwise
		}
	}
	orElse(&e.method, http.MethodPost)
	orElse(&e.target, "/dlr")
	orElse(&e.at, second(0))
	if e.sign == nil {
		e.sign = signature
	}
	sent := strconv.FormatInt(time.Now().Add(e.sent).Unix(), 10)
	header := map[string]string{
		"Content-Type": "application/x-www-form-urlencoded", "Webhook-Id": e.id, "Webhook-Timestamp": sent, "Webhook-Attempt": "1",
		"Webhook-Event-Time": e.at, "Webhook-Signature": e.sign(s.key, e.id, sent, e.body),
		"Authorization": "Basic " + base64.StdEncoding.EncodeToString([]byte(sampleAuth)),
	}
	for name, value := range e.header {
		header[name] = value
	}
	var request bytes.Buffer
	fmt.Fprintf(&request, "%s %s HTTP/1.1\r\nHost: %s\r\nContent-Length: %d\r\nConnection: close\r\n", e.method, e.target, s.addr, len(e.body))
	for name, value := range header {
		if value != "" {
			fmt.Fprintf(&request, "%s: %s\r\n", name, value)
		}
	}
	fmt.Fprintf(&request, "\r\n%s", e.body)
	conn, err := net.DialTimeout("tcp", s.addr, 10*time.Second)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	_ = conn.SetDeadline(time.Now().Add(30 * time.Second))
	_, _ = conn.Write(request.Bytes()) // a body that is too large is refused before its end
	resp, err := http.ReadResponse(bufio.NewReader(conn), nil)
	if err != nil {
		return 0 // the connection was closed without an answer: refused
	}
	_ = resp.Body.Close()
	return resp.StatusCode
}

// stored returns the events of a kind that the receiver has stored, as one text.
func (s *sample) stored(t testing.TB, kind string) string {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(s.dir, kind+"-*"))
	if err != nil {
		t.Fatal(err)
	}
	var all strings.Builder
	for _, file := range files {
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		all.Write(text)
	}
	return all.String()
}

// TestSampleReceivers checks that every sample accepts genuine requests and applies each event once and in order, and
// that it refuses forged, unsigned and old requests, however the path is written.
func TestSampleReceivers(t *testing.T) {
	t.Parallel()
	harness.Need(t)
	secret := "whsec_" + base64.StdEncoding.EncodeToString([]byte(strings.Repeat("s", 32)))
	for name, start := range receiverSamples {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := startSample(t, start, secret)
			s.refuses(t)
			s.appliesInOrder(t)
			s.readsEveryKind(t)
			s.readsEveryPath(t)
			s.storesBeforeItAnswers(t)
		})
	}
}

// refuses sends requests that are not genuine. None may be stored.
func (s *sample) refuses(t *testing.T) {
	t.Helper()
	body := report("1", "Delivered")
	other := []byte("another key of thirty-two bytes!")
	with := func(name, value string) map[string]string { return map[string]string{name: value} }
	signed := func(change func(key []byte, id, sent, body string) string) event {
		return event{id: "forged", body: body, sign: change}
	}
	for name, tc := range map[string]struct {
		event  event
		status int
	}{
		"unsigned":                {event{id: "forged", body: body, header: with("Webhook-Signature", "")}, 401},
		"another key":             {signed(func(_ []byte, id, sent, body string) string { return signature(other, id, sent, body) }), 401},
		"another id":              {signed(func(key []byte, _, sent, body string) string { return signature(key, "x", sent, body) }), 401},
		"another body":            {signed(func(key []byte, id, sent, _ string) string { return signature(key, id, sent, "x") }), 401},
		"another time":            {signed(func(key []byte, id, _, body string) string { return signature(key, id, "1", body) }), 401},
		"version 2":               {signed(func(key []byte, id, sent, body string) string { return "v2" + signature(key, id, sent, body)[2:] }), 401},
		"a part of the signature": {signed(func(key []byte, id, sent, body string) string { return signature(key, id, sent, body)[:20] }), 401},
		"no text":                 {signed(func([]byte, string, string, string) string { return "v1," }), 401},
		"not ASCII":               {signed(func([]byte, string, string, string) string { return "v1,ä" }), 401},
		"old":                     {event{id: "forged", body: body, sent: -10 * time.Minute}, 401},
		"time in the future":      {event{id: "forged", body: body, sent: 10 * time.Minute}, 401},
		"no time": {event{id: "forged", body: body, header: with("Webhook-Timestamp", ""),
			sign: func(key []byte, id, _, body string) string { return signature(key, id, "", body) }}, 401},
		"time is not a number": {event{id: "forged", body: body, header: with("Webhook-Timestamp", "soon"),
			sign: func(key []byte, id, _, body string) string { return signature(key, id, "soon", body) }}, 401},
		"no credentials":    {event{id: "forged", body: body, header: with("Authorization", "")}, 401},
		"wrong credentials": {event{id: "forged", body: body, header: with("Authorization", "Basic YW5uOng=")}, 401},
		"no id":             {event{body: body}, 400},
		"no event time":     {event{id: "forged", body: body, header: with("Webhook-Event-Time", "")}, 400},
		"bad event time":    {event{id: "forged", body: body, at: "yesterday"}, 400},
		"not a form":        {event{id: "forged", body: "x"}, 400},
		"not JSON":          {event{id: "forged", body: "sms=x"}, 400},
		"another path":      {event{id: "forged", body: body, target: "/other"}, 404},
		"GET":               {event{id: "forged", method: http.MethodGet, body: ""}, 0},
		"too large":         {event{id: "forged", body: "sms=" + strings.Repeat("x", 2<<20)}, 0},
	} {
		got := s.send(t, tc.event)
		if got == http.StatusOK || tc.status != 0 && got != tc.status {
			t.Errorf("%s: status %d, want %d", name, got, tc.status)
		}
	}
	if stored := s.stored(t, "dlr"); stored != "" {
		t.Errorf("a refused request was stored: %s", stored)
	}
}

// appliesInOrder sends repeats, and events that arrive late.
func (s *sample) appliesInOrder(t *testing.T) {
	t.Helper()
	old := []byte("the secret before of 32 bytes...")
	for i, tc := range []struct {
		event event
		want  string // status stored afterwards
	}{
		{event{id: "a", at: second(2), body: report("1", "Delivered")}, "Delivered"},
		{event{id: "a", at: second(2), body: report("1", "Delivered")}, "Delivered"}, // repeated
		{event{id: "a", at: second(3), body: report("1", "Failed")}, "Delivered"},    // the same id is the same event
		{event{id: "b", at: second(1), body: report("1", "Pending")}, "Delivered"},   // late
		{event{id: "b", at: second(9), body: report("1", "Pending")}, "Delivered"},   // and repeated
		{event{id: "c", at: second(4), body: report("1", "Rejected")}, "Rejected"},
		{event{id: "d", at: second(5), body: report("1", "Expired"), sign: func(key []byte, id, sent, body string) string {
			return signature(key, id, sent, body) + " " + signature(old, id, sent, body)
		}}, "Expired"},
		{event{id: "e", at: second(6), body: report("1", "Unknown"), sign: func(key []byte, id, sent, body string) string {
			return "v2,x " + signature(old, id, sent, body) + " " + signature(key, id, sent, body)
		}}, "Unknown"},
	} {
		if got := s.send(t, tc.event); got != http.StatusOK {
			t.Errorf("step %d: status %d", i, got)
		}
		if stored := s.stored(t, "dlr"); !strings.Contains(stored, tc.want) || strings.Count(stored, `"id":1,`) != 1 {
			t.Errorf("step %d: stored %s, want %s", i, stored, tc.want)
		}
	}
	var wg sync.WaitGroup
	for n := range 8 {
		wg.Go(func() {
			if got := s.send(t, event{id: "at once", at: second(10 + n), body: report("2", strconv.Itoa(n))}); got != http.StatusOK {
				t.Errorf("status %d", got)
			}
		})
	}
	wg.Wait()
	first := s.stored(t, "dlr")
	s.send(t, event{id: "at once", at: second(30), body: report("2", "again")})
	if again := s.stored(t, "dlr"); again != first || strings.Count(first, `"id":2,`) != 1 {
		t.Errorf("one event arrived at once and again: stored %s, then %s", first, again)
	}
}

// readsEveryKind sends an event of each kind, first with a wrong signature. A click must not replace the delivery
// report of its message.
func (s *sample) readsEveryKind(t *testing.T) {
	t.Helper()
	batch := `{"event":"clicks_revoked","count":1,"api_sms_ids":[],"campaign_sms_ids":[9007199254740993]}`
	for i, tc := range []struct{ target, body, contentType, want string }{
		{"/dlr", report("9007199254740993", "Failed"), "", `"id":9007199254740993,`},
		{"/dlr", report("9007199254740992", "Failed"), "", `"id":9007199254740992,`},
		{"/dlr", report(`"x\"y"`, "Failed"), "", `"id":"x\"y",`},
		{"/click", report("1", "Failed"), "", `"text":"a \"b\" &+ä"`},
		{"/inbound", report("1", "Failed"), "", `"id":1,`},
		// A text that was cut within a character has half of a surrogate pair.
		{"/inbound", "sms=" + url.QueryEscape(`{"id":2,"message":"a\ud83d"}`), "", `{"id":2,"message":"a\ud83d"}`},
		{"/revoke_click", batch, "application/json", batch},
	} {
		e := event{id: "kind" + strconv.Itoa(i), at: second(1), target: tc.target, body: tc.body, header: map[string]string{}}
		if tc.contentType != "" {
			e.header["Content-Type"] = tc.contentType
		}
		if tc.target != "/dlr" {
			e.header["Authorization"] = ""
		}
		forged := e
		forged.sign = func([]byte, string, string, string) string { return "v1,x" }
		if got := s.send(t, forged); got != http.StatusUnauthorized {
			t.Errorf("%s forged: status %d", tc.target, got)
		}
		for range 2 {
			if got := s.send(t, e); got != http.StatusOK {
				t.Errorf("%s: status %d", tc.target, got)
			}
		}
		if stored := s.stored(t, tc.target[1:]); strings.Count(stored, tc.want) != 1 {
			t.Errorf("%s: stored %s, want %s once", tc.target, stored, tc.want)
		}
	}
}

// readsEveryPath checks that other spellings of /dlr accept and refuse the same requests.
func (s *sample) readsEveryPath(t *testing.T) {
	t.Helper()
	for i, target := range []string{"/dlr", "/dlr/", "/dlr?x=1", "/dlr/?x=1", "/hooks/dlr", "/hooks/dlr/?token=a%2Fb", "/%64lr"} {
		if got := s.send(t, event{id: "path" + strconv.Itoa(i), target: target, body: report("3", "Delivered")}); got != http.StatusOK {
			t.Errorf("%s: status %d", target, got)
		}
	}
	for _, target := range []string{"/revoke_click", "/revoke_click/", "/revoke_click?token=s"} {
		e := event{id: target, target: target, body: `{"event":"clicks_revoked"}`, header: map[string]string{"Content-Type": "application/json", "Authorization": ""}}
		if got := s.send(t, e); got != http.StatusOK {
			t.Errorf("%s: status %d", target, got)
		}
	}
	before := s.stored(t, "") + s.stored(t, "*")
	for _, target := range []string{"/dlr", "/dlr/", "/dlr?x=1", "/dlr/?x=1", "//dlr", "///dlr//", "/hooks/dlr", "/%64lr", "/DLR", "/dlr;x", "/./dlr",
		"/dlr/.", "/dlr/..", "/dlr%2f", "/dlr%00", "/x?/dlr", "/receiver.php/dlr", "/%zz", "http://" + s.addr + "/dlr", "dlr", "*", "/revoke_click?token=s"} {
		e := event{id: "forged", target: target, body: report("4", "forged"), header: map[string]string{"Webhook-Signature": "v1,x", "Authorization": ""}}
		if got := s.send(t, e); got == http.StatusOK {
			t.Errorf("a forged request at %s: status %d", target, got)
		}
	}
	if after := s.stored(t, "") + s.stored(t, "*"); after != before {
		t.Error("a forged request was stored")
	}
}

// storesBeforeItAnswers checks that the reply is an error while nothing can be stored, and that the repeated event is
// stored.
func (s *sample) storesBeforeItAnswers(t *testing.T) {
	t.Helper()
	away := s.dir + ".away"
	if err := os.Rename(s.dir, away); err != nil {
		t.Fatal(err)
	}
	e := event{id: "again", target: "/inbound", body: report("5", "Delivered"), header: map[string]string{"Authorization": ""}}
	if got := s.send(t, e); got != http.StatusInternalServerError {
		t.Errorf("nothing can be stored: status %d, want 500", got)
	}
	if err := os.Rename(away, s.dir); err != nil {
		t.Fatal(err)
	}
	if got := s.send(t, e); got != http.StatusOK || !strings.Contains(s.stored(t, "inbound"), `"id":5,`) {
		t.Errorf("the event was repeated: status %d, stored %s", got, s.stored(t, "inbound"))
	}
}

// TestSamplesReceiveFromTheService checks that all receivers, including the one in Go, accept the service's own
// requests.
func TestSamplesReceiveFromTheService(t *testing.T) {
	t.Parallel()
	w := newEnv(t)
	key := w.newKey(t, 1)
	p := w.serve(t)
	var rotated struct{ Secret string }
	harness.Eventually(t, harness.Patience, func() bool {
		return ask(t, p, http.MethodPost, key, "/v1/user/webhook-secret/rotate", "", &rotated) == http.StatusOK
	}, "the secret is rotated")
	harness.Secret(rotated.Secret)
	receivers := map[string]*sample{}
	for name, start := range receiverSamples {
		receivers[name] = startSample(t, start, rotated.Secret)
	}
	inGo := &sample{addr: harness.FreeAddr(t)}
	harness.StartProgram(t, nil, harness.Example(t, "receiver"), "-addr="+inGo.addr, "-auth="+sampleAuth, "-secret="+rotated.Secret)
	inGo.waitUntilItAnswers(t)
	receivers["go"] = inGo
	for name, s := range receivers {
		form := url.Values{"auth": {sampleAuth}}
		for _, kind := range []string{"dlr", "click", "inbound", "revoke_click"} {
			form.Set(kind+"_url", "http://"+s.addr+"/hooks/"+kind+"?token=s")
		}
		if status := ask(t, p, http.MethodPost, key, "/v1/user/set-webhook", form.Encode(), nil); status != http.StatusOK {
			t.Fatalf("set-webhook: %d", status)
		}
		var results map[string]struct{ Status string }
		if status := ask(t, p, http.MethodPost, key, "/v1/user/test-webhook", "", &results); status != http.StatusOK || len(results) != 4 {
			t.Fatalf("test-webhook: %d %v", status, results)
		}
		for kind, result := range results {
			if result.Status != "ok" {
				t.Errorf("%s: the test of %s is %s", name, kind, result.Status)
			}
			if s.dir != "" && s.stored(t, kind) == "" {
				t.Errorf("%s: nothing of %s is stored", name, kind)
			}
		}
	}
}

// TestDocumentedReceiver runs the commands at the end of docs/receivers.md: they start a receiver and send it an event
// at once.
func TestDocumentedReceiver(t *testing.T) {
	t.Parallel()
	harness.Need(t)
	page, err := os.ReadFile("../../docs/receivers.md")
	if err != nil {
		t.Fatal(err)
	}
	_, section, _ := strings.Cut(string(page), "\n## Try it\n\n```sh\n")
	commands, _, _ := strings.Cut(section, "```")
	_, port, _ := net.SplitHostPort(harness.FreeAddr(t))
	dir, examples := t.TempDir(), filepath.Dir(filepath.Dir(sampleFile(t, "")))
	if err := os.Symlink(filepath.Join(examples, "examples"), filepath.Join(dir, "examples")); err != nil {
		t.Fatal(err)
	}
	output, err := os.Create(filepath.Join(dir, "output")) // unlike a pipe, it does not wait for the receiver to end
	if err != nil {
		t.Fatal(err)
	}
	defer output.Close()
	cmd := exec.Command("bash", "-c", strings.ReplaceAll(commands, ":8090/", ":"+port+"/"))
	cmd.Dir, cmd.Env, cmd.Stdout, cmd.Stderr = dir, append(os.Environ(), "PORT="+port), output, output
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	err = cmd.Run()
	_ = syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) // the receiver is in the group of the shell
	out, _ := os.ReadFile(output.Name())
	if kept, _ := filepath.Glob(filepath.Join(dir, "kept", "dlr-*")); err != nil || !strings.Contains(string(out), " 200 OK") || len(kept) != 1 {
		t.Errorf("%v, kept %v\n%s", err, kept, out)
	}
}

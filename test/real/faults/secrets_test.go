package faults_test

import (
	"context"
	"crypto/rand"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"html"
	"io"
	"mime/multipart"
	"net/http"
	"net/http/cookiejar"
	"net/http/httptest"
	"net/url"
	"regexp"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/smshooks/smshooks/test/real/harness"
)

// canary returns a text that occurs nowhere else.
func canary(prefix string) string {
	var b [6]byte
	_, _ = rand.Read(b[:])
	return prefix + hex.EncodeToString(b[:])
}

// vault holds the secrets that must not be found, by name, and the places that were searched.
type vault struct {
	t       *testing.T
	secrets map[string]string
	looked  map[string]int // bytes, by place
}

// has adds a secret, also for the rest of the process.
func (v *vault) has(name, text string) string {
	v.secrets[name] = text
	harness.Secret(text)
	return text
}

// search looks for all secrets in a text, except those that are allowed there.
func (v *vault) search(place, text string, may ...string) {
	v.t.Helper()
	v.looked[place] += len(text)
	for name, secret := range v.secrets {
		if slices.Contains(may, name) {
			continue
		}
		for _, form := range harness.Encodings(secret) {
			if at := strings.Index(text, form); at >= 0 {
				v.t.Errorf("%s shows %s: …%s…", place, name, text[max(0, at-120):min(len(text), at+len(form)+40)])
			}
		}
	}
}

// TestSecrets provokes every kind of failure. No API key, credentials, signing secret, settings key or query of a URL
// may then be in a log line at debug level, a metric, a span, an error, a dead letter or a page.
func TestSecrets(t *testing.T) {
	harness.Need(t)
	rec := newCase(t, "16", "secrets", "every way in and out, at log level debug")
	rec.did("settings, keys, good and bad requests to the API and the page, failing endpoints, dead letters, replays, unreadable records, wrong settings; then all that came out was searched")
	v := &vault{t: t, secrets: map[string]string{}, looked: map[string]int{}}
	s := newEnv(t, harness.Kafka(t).Addr, harness.Redis(t).Addr, 1, "--log.level=debug", "--dispatch.timeout=1s")
	var sealing [32]byte
	_, _ = rand.Read(sealing[:])
	o := s.options()
	spans := newCollector(t)
	o.Env = append(o.Env, "SMSHOOKS_TRACING_ENDPOINT="+spans.URL, "SMSHOOKS_TRACING_SAMPLE=1", "SMSHOOKS_SECRETS_KEY="+v.has("the sealing key", base64.StdEncoding.EncodeToString(sealing[:])))
	recv := harness.NewReceiver(t)
	p := harness.StartReady(t, o)
	key := v.has("the API key", createKey(t, o, 2))
	revoked := v.has("the revoked API key", createKey(t, o, 2))

	auth := canary("u") + ":" + canary("p")
	v.has("auth", auth)
	v.has("auth's password", auth[strings.IndexByte(auth, ':')+1:])
	token := v.has("the URL's token", canary("token"))
	hook := func(path string) string { return recv.URL(path) + "?token=" + token }
	settings := url.Values{"dlr_url": {hook("/dlr")}, "click_url": {hook("/click")}, "inbound_url": {hook("/inbound")}, "revoke_click_url": {hook("/revoke")}, "auth": {auth}}
	v.callAPI(p, key, revoked, settings, auth)
	v.rotate(p, key)
	v.openPage(p, key, settings)
	if _, stderr, code := harness.Run(t, o, "keys", "revoke", revoked); code != 0 {
		t.Errorf("keys revoke: %d %s", code, stderr)
	}
	_, stderr, _ := harness.Run(t, o, "keys", "revoke", v.has("an unknown API key", canary("key")))
	v.search("errors of commands", stderr)

	v.poisonSettings(s, auth)
	v.failEndpoints(t, s, recv, p, token)
	v.callAPI(p, key, revoked, url.Values{}, auth) // by now there are deliveries and dead letters
	v.wrongSettings(t, o)

	v.search("metrics", opsPage(t, p, "/metrics"))
	v.search("health", opsPage(t, p, "/healthz")+opsPage(t, p, "/readyz"))
	v.searchTopics(t, s)
	v.searchRedis(t, s)
	v.searchReceiver(recv, auth)
	p.Signal(t, syscall.SIGTERM)
	p.Wait(t, patience)
	v.search("spans", spans.received())
	log := p.Log()
	v.search("log", log)
	for _, line := range []string{"API listener", "unreadable", "events sent again"} {
		if !strings.Contains(log, line) {
			t.Errorf("the log has no %q: the test is meaningless", line)
		}
	}
	for place, n := range v.looked {
		if n == 0 {
			t.Errorf("no output from %s: the test is meaningless", place)
		}
		rec.note("%s: %s bytes", place, count(n))
	}
}

// collector receives spans.
type collector struct {
	*httptest.Server
	mu     sync.Mutex
	bodies strings.Builder
}

func newCollector(t *testing.T) *collector {
	t.Helper()
	c := &collector{}
	c.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		c.mu.Lock()
		defer c.mu.Unlock()
		c.bodies.Write(body)
		c.bodies.WriteString(headersOf(&http.Response{Header: r.Header}))
	}))
	t.Cleanup(c.Close)
	return c
}

func (c *collector) received() string {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.bodies.String()
}

func createKey(t *testing.T, o harness.Options, user int64) string {
	t.Helper()
	out, stderr, code := harness.Run(t, o, "keys", "create", "--user", fmt.Sprint(user))
	if code != 0 {
		t.Fatalf("keys create: %s", stderr)
	}
	return strings.TrimSpace(out)
}

func opsPage(t *testing.T, p *harness.Proc, path string) string {
	t.Helper()
	return string(get(t, http.DefaultClient, "http://"+p.OpsAddr+path))
}

func get(t *testing.T, cl *http.Client, at string) []byte {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, at, nil)
	if err != nil {
		t.Fatal(err)
	}
	resp, err := cl.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return append(body, headersOf(resp)...)
}

func headersOf(resp *http.Response) string {
	var b strings.Builder
	_ = resp.Header.Write(&b)
	return b.String()
}

// callAPI makes valid and invalid requests of every kind. A user's own settings may show the URL's token to that user.
func (v *vault) callAPI(p *harness.Proc, key, revoked string, settings url.Values, auth string) {
	v.t.Helper()
	const form = "application/x-www-form-urlencoded"
	v.has("a wrong API key", canary("wrong-key"))
	v.has("auth that is refused", canary("refused")+strings.Repeat("x", 30))
	v.has("a URL's password", canary("urlpass"))
	v.has("auth in broken JSON", canary("broken"))
	var multi strings.Builder
	w := multipart.NewWriter(&multi)
	_ = w.WriteField("auth", auth)
	_ = w.Close()
	calls := []struct{ method, path, key, kind, body string }{
		{"POST", "set-webhook", key, form, settings.Encode()},
		{"POST", "set-webhook", key, w.FormDataContentType(), multi.String()},
		{"POST", "set-webhook", key, "application/json", `{"auth":"` + auth + `"}`},
		{"POST", "set-webhook", key, "application/json", `{"auth":"` + v.secrets["auth in broken JSON"]},
		{"POST", "set-webhook", key, "application/json", `{"auth":["` + auth + `"]}`},
		{"POST", "set-webhook", key, form, "auth=" + v.secrets["auth that is refused"]},
		{"POST", "set-webhook", key, form, "auth=%zz" + v.secrets["auth in broken JSON"]},
		{"POST", "set-webhook", key, form, "dlr_url=" + url.QueryEscape("http://user:"+v.secrets["a URL's password"]+"@example.com/")},
		{"POST", "set-webhook", key, form, "dlr_url=" + url.QueryEscape("http://exa mple/?"+v.secrets["the URL's token"])},
		{"POST", "set-webhook", v.secrets["a wrong API key"], form, settings.Encode()},
		{"POST", "set-webhook", "", form, settings.Encode()},
		{"POST", "set-webhook?X-API-KEY=" + key + "&auth=" + url.QueryEscape(auth), "", form, ""},
		{"GET", "get-webhook", key, "", ""},
		{"GET", "get-webhook", revoked, "", ""},
		{"GET", "get-webhook", v.secrets["a wrong API key"], "", ""},
		{"POST", "test-webhook", key, form, ""},
		{"GET", "deliveries?limit=100", key, "", ""},
		{"GET", "deliveries?limit=" + key, key, "", ""},
		{"GET", "deliveries?before=" + url.QueryEscape(auth), key, "", ""},
		{"POST", "replay", key, form, "ids=" + url.QueryEscape(auth)},
		{"POST", "replay", key, form, "since=" + url.QueryEscape(auth)},
		{"DELETE", "set-webhook", key, "", ""},
		{"GET", key, key, "", ""},
	}
	for _, c := range calls {
		req, err := http.NewRequestWithContext(context.Background(), c.method, "http://"+p.Addr+"/v1/user/"+c.path, strings.NewReader(c.body))
		if err != nil {
			v.t.Fatal(err)
		}
		if c.kind != "" {
			req.Header.Set("Content-Type", c.kind)
		}
		if c.key != "" {
			req.Header.Set("X-API-KEY", c.key)
		}
		resp, err := http.DefaultClient.Do(req)
		if err != nil {
			v.t.Fatal(err)
		}
		body, _ := io.ReadAll(resp.Body)
		_ = resp.Body.Close()
		if resp.StatusCode >= 500 {
			v.t.Errorf("%s %s: %d %s", c.method, strings.SplitN(c.path, "?", 2)[0], resp.StatusCode, body)
		}
		may := []string(nil)
		if resp.StatusCode == http.StatusOK {
			may = []string{"the URL's token"}
		}
		v.search("API replies", string(body)+headersOf(resp), may...)
	}
}

// rotate creates signing secrets. Only the reply to that request may show a secret.
func (v *vault) rotate(p *harness.Proc, key string) {
	v.t.Helper()
	bad := v.has("a signing secret that is refused", canary("signing"))
	call := func(method, path, body string) []byte {
		req, err := http.NewRequestWithContext(context.Background(), method, "http://"+p.Addr+"/v1/user/"+path, strings.NewReader(body))
		if err != nil {
			v.t.Fatal(err)
		}
		req.Header.Set("X-API-KEY", key)
		resp, err := http.DefaultClient.Do(req)
		if err != nil {
			v.t.Fatal(err)
		}
		defer resp.Body.Close()
		reply, _ := io.ReadAll(resp.Body)
		if resp.StatusCode >= 500 {
			v.t.Errorf("%s %s: %d", method, path, resp.StatusCode)
		}
		v.search("API replies", string(reply)+headersOf(resp), "the URL's token")
		return reply
	}
	for i := range 3 { // the third one drops the first
		var reply struct{ Data struct{ Secret string } }
		if err := json.Unmarshal(call("POST", "webhook-secret/rotate", "grace=1h"), &reply); err != nil {
			v.t.Fatal(err)
		}
		encoded, ok := strings.CutPrefix(reply.Data.Secret, "whsec_")
		if !ok {
			v.t.Fatalf("rotate: no secret in the reply")
		}
		v.has(fmt.Sprintf("signing secret %d", i+1), encoded)
	}
	call("POST", "webhook-secret/rotate", "grace="+bad)
	call("PATCH", "webhook-settings", "signing="+bad+"&signing_secrets="+bad+"&dlr_statuses="+bad+"&dlr_failover_url="+bad)
	call("GET", "webhook-settings?x="+bad, "")
	call("GET", "get-webhook", "")
}

var formToken = regexp.MustCompile(`name="token" value="([^"]+)"`)

// openPage signs in with a wrong and a valid key, and sends the account page's forms.
func (v *vault) openPage(p *harness.Proc, key string, settings url.Values) {
	v.t.Helper()
	jar, err := cookiejar.New(nil)
	if err != nil {
		v.t.Fatal(err)
	}
	cl := &http.Client{Jar: jar, Timeout: 20 * time.Second}
	page := "http://" + p.Addr + "/account/webhooks"
	post := func(path string, values url.Values) string {
		req, err := http.NewRequestWithContext(context.Background(), http.MethodPost, page+path, strings.NewReader(values.Encode()))
		if err != nil {
			v.t.Fatal(err)
		}
		req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
		resp, err := cl.Do(req)
		if err != nil {
			v.t.Fatal(err)
		}
		defer resp.Body.Close()
		body, _ := io.ReadAll(resp.Body)
		if resp.StatusCode >= 500 {
			v.t.Errorf("page %s: %d", path, resp.StatusCode)
		}
		text := string(body) + headersOf(resp)
		v.search("pages", text+html.UnescapeString(text), "the URL's token")
		return text
	}
	post("/sign-in", url.Values{"key": {v.secrets["a wrong API key"]}})
	shown := post("/sign-in", url.Values{"key": {key}})
	found := formToken.FindStringSubmatch(shown)
	if found == nil {
		v.t.Fatalf("no form after signing in: %.300s", shown)
	}
	token := url.Values{"token": {found[1]}}
	with := func(more url.Values) url.Values {
		all := url.Values{"token": token["token"]}
		for name, values := range more {
			all[name] = values
		}
		return all
	}
	post("", with(settings))
	post("", with(url.Values{"auth": {v.secrets["auth that is refused"]}}))
	post("", with(url.Values{"dlr_url": {"no URL"}, "auth": settings["auth"]}))
	post("", url.Values{"token": {"foreign"}, "auth": settings["auth"]})
	rotated := regexp.MustCompile(`whsec_([A-Za-z0-9+/]{43}=)`).FindStringSubmatch(html.UnescapeString(post("/secret/rotate", token)))
	if rotated == nil {
		v.t.Fatal("the page shows no new signing secret")
	}
	v.has("the page's signing secret", rotated[1])
	post("/options", with(url.Values{"dlr_statuses": {rotated[1]}, "click_failover_url": {"no URL"}}))
	post("/test", token)
	post("/replay", token)
	for _, query := range []string{"", "?period=30d&kind=dlr&status=failed"} {
		text := string(get(v.t, cl, page+query))
		v.search("pages", text+html.UnescapeString(text), "the URL's token")
	}
	for _, c := range jar.Cookies(&url.URL{Scheme: "http", Host: p.Addr, Path: "/account/webhooks"}) {
		v.search("cookies", c.Value)
	}
	post("/sign-out", token)
}

// poisonSettings writes unreadable records that contain secrets.
func (v *vault) poisonSettings(s *env, auth string) {
	v.t.Helper()
	bad := v.has("auth in an unreadable record", canary("unreadable"))
	var records []*kgo.Record
	for _, value := range []string{
		`{"user_id":5,"auth":["` + bad + `"]}`, `{"user_id":5,"auth":"` + bad, `{"user_id":"` + bad + `"}`, bad, `{"user_id":5,"dlr_url":{"x":"` + bad + `"}}`,
		`{"user_id":5,"auth":"enc:v1:` + bad + `"}`, `{"user_id":5,"signing_secrets":"` + bad + `"}`, `{"user_id":5,"signing_secrets":[{"secret":"whsec_` + bad + `"}]}`,
		`{"user_id":5,"signing_secrets":[{"secret":"enc:v1:` + bad + `"}]}`, `{"user_id":5,"signing_secrets":[{"secret":"x","until":"` + bad + `"}]}`,
	} {
		records = append(records, harness.Event(s.topics.Config, 5, value))
	}
	records = append(records, &kgo.Record{Topic: s.topics.Config, Partition: harness.ByKey, Key: []byte(bad), Value: []byte(`{"user_id":5}`)},
		&kgo.Record{Topic: s.topics.Keys, Partition: harness.ByKey, Key: []byte(bad), Value: []byte(`{"user_id":5}`)},
		&kgo.Record{Topic: s.topics.Keys, Partition: harness.ByKey, Key: []byte(strings.Repeat("a", 64)), Value: []byte(`{"user_id":"` + bad + `"}`)})
	// another program's plain credentials, with an invalid password, and a URL with credentials
	records = append(records, harness.WebhookRecord(v.t, s.topics.Config, 6, harness.Webhook{
		DLR: "http://user:" + v.secrets["a URL's password"] + "@127.0.0.1:1/?token=" + v.secrets["the URL's token"], Auth: auth,
	}), harness.WebhookRecord(v.t, s.topics.Config, 7, harness.Webhook{DLR: "no URL " + v.secrets["the URL's token"], Auth: auth}))
	harness.ProduceMany(v.t, s.brokers, records)
}

// failEndpoints makes events succeed, fail in every way and become dead letters, also at an instance without its key.
func (v *vault) failEndpoints(t *testing.T, s *env, recv *harness.Receiver, p *harness.Proc, token string) {
	t.Helper()
	query := "?token=" + token
	urls := []string{
		recv.URL("/500") + query, recv.URL("/hang") + query, "http://127.0.0.1:1/" + query, "http://no..such.invalid/" + query, "https://" + recv.Addr() + "/" + query,
		"http://10.0.0.1/" + query, "http://[fe80::1%25eth0]/" + query, recv.URL("/cut") + query,
	}
	recv.On("/500", harness.Status(500))
	recv.On("/hang", harness.Hang())
	recv.On("/cut", func(w http.ResponseWriter, _ *http.Request, _ harness.Request) { panic(http.ErrAbortHandler) })
	auth := v.secrets["auth"]
	var records []*kgo.Record
	for i, to := range urls {
		records = append(records, harness.WebhookRecord(t, s.topics.Config, int64(20+i), harness.Webhook{DLR: to, Click: to, Inbound: to, Revoke: to, Auth: auth}))
	}
	harness.ProduceMany(t, s.brokers, records)
	harness.Settle()
	records = nil
	for _, user := range []int64{2, 6, 7, 20, 21, 22, 23, 24, 25, 26, 27} {
		records = append(records, harness.Event(s.topics.DLR, user, harness.DLRValue(user, 1)), harness.Event(s.topics.Click, user, harness.ClickValue(user, 1)),
			harness.Event(s.topics.Inbound, user, harness.InboundValue(user, 1)), harness.Event(s.topics.Revocation, user, harness.RevocationValue(user, []int64{1}, nil)))
	}
	records = append(records, harness.Event(s.topics.DLR, 2, `{"user_id":"x"}`))
	harness.ProduceMany(t, s.brokers, records)
	harness.Eventually(t, patience, func() bool {
		return len(harness.Consume(t, s.brokers, s.topics.DeadLetter)) >= 1+8*4 && recv.Count("/dlr") > 0 && recv.Count("/revoke") > 0
	}, "the dead letters of the failing endpoints")
}

// wrongSettings starts the program with invalid secret settings, and prints them.
func (v *vault) wrongSettings(t *testing.T, o harness.Options) {
	t.Helper()
	secret := v.has("a wrong setting's value", canary("setting"))
	for _, args := range [][]string{
		{"serve", "--secrets.key=" + secret}, {"serve", "--portal.secret=" + secret}, {"serve", "--kafka.sasl.password=" + secret, "--kafka.sasl.mechanism=" + "NONE"},
		{"topics", "check", "--kafka.sasl.mechanism=PLAIN", "--kafka.sasl.username=u", "--kafka.sasl.password=" + secret, "--kafka.session_timeout=soon"},
		{"serve", "--redis.password=" + secret, "--redis.db=x"}, {"config", "print", "--redis.password=" + secret, "--kafka.sasl.password=" + secret},
	} {
		out, stderr, _ := harness.Run(t, o, args...)
		v.search("errors of commands", out+stderr)
	}
	out, stderr, code := harness.Run(t, o, "config", "print")
	if code != 0 || !strings.Contains(out, "********") {
		t.Errorf("config print: %d %s", code, stderr)
	}
	v.search("config print", out+stderr)
	out, stderr, code = harness.Run(t, o, "deadletter", "list")
	if code != 0 || out == "" {
		t.Errorf("deadletter list: %d %s", code, stderr)
	}
	v.search("deadletter list", out+stderr)
}

// searchTopics searches everything that the program wrote to Kafka, where credentials are sealed. The config topic also
// holds what this test wrote.
func (v *vault) searchTopics(t *testing.T, s *env) {
	t.Helper()
	for _, topic := range append(s.waits(), s.topics.DeadLetter) {
		for _, r := range harness.Consume(t, s.brokers, topic) {
			text := string(r.Key) + string(r.Value)
			for _, h := range r.Headers {
				text += h.Key + "=" + string(h.Value) + "\n"
			}
			v.search("dead letters and waiting records", text)
		}
	}
	for _, r := range harness.Consume(t, s.brokers, s.topics.Config) {
		if string(r.Key) == "2" { // written by the API
			v.search("the config topic", string(r.Value), "the URL's token")
		}
	}
	for _, r := range harness.Consume(t, s.brokers, s.topics.Keys) {
		v.search("the keys topic", string(r.Key)+string(r.Value), "auth in an unreadable record")
	}
}

// searchRedis searches all keys of the program. URLs are stored there; credentials are sealed.
func (v *vault) searchRedis(t *testing.T, s *env) {
	t.Helper()
	server := harness.Redis(t)
	cl := server.Client(t)
	for _, key := range server.Keys(t, s.topics.KeyPrefix+"*") {
		v.search("Redis", key+dump(t, cl, key), "the URL's token", "a URL's password")
	}
}

func dump(t *testing.T, cl redis.UniversalClient, key string) string {
	t.Helper()
	ctx := t.Context()
	var value any
	var err error
	switch kind := cl.Type(ctx, key).Val(); kind {
	case "string":
		value, err = cl.Get(ctx, key).Result()
	case "hash":
		value, err = cl.HGetAll(ctx, key).Result()
	case "list":
		value, err = cl.LRange(ctx, key, 0, -1).Result()
	case "set":
		value, err = cl.SMembers(ctx, key).Result()
	case "zset":
		value, err = cl.ZRange(ctx, key, 0, -1).Result()
	case "stream":
		value, err = cl.XRange(ctx, key, "-", "+").Result()
	}
	if err != nil {
		t.Fatalf("key %s in Redis: %v", key, err)
	}
	return fmt.Sprint(value)
}

// searchReceiver checks that only delivery receipts carry credentials, and that no other secret is sent.
func (v *vault) searchReceiver(recv *harness.Receiver, auth string) {
	v.t.Helper()
	want := "Basic " + base64.StdEncoding.EncodeToString([]byte(auth))
	carried, signed := 0, 0
	for _, r := range recv.Requests("") {
		header := r.Header.Clone()
		if header.Get("Webhook-Signature") != "" {
			signed++
		}
		if header.Get("Authorization") != "" {
			carried++
			if header.Get("Authorization") != want {
				v.t.Errorf("%s carries other credentials", r.Path)
			}
			if r.Header.Get("Content-Type") != "application/x-www-form-urlencoded" || strings.HasPrefix(r.Path, "/click") || strings.HasPrefix(r.Path, "/inbound") || strings.HasPrefix(r.Path, "/revoke") {
				v.t.Errorf("%s carries credentials", r.Path)
			}
			header.Del("Authorization")
		}
		v.search("deliveries", r.Path+fmt.Sprint(header)+string(r.Body), "the URL's token")
	}
	if carried == 0 || signed == 0 {
		v.t.Errorf("%d delivery receipts carried credentials, %d requests a signature: the test is meaningless", carried, signed)
	}
}

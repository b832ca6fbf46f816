package real_test

import (
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/smshooks/smshooks/test/real/harness"
)

// account is one user with settings and an API key, in an env whose Redis is damaged.
type account struct {
	user int64
	key  string
}

// shownSettings is a user's settings in a reply of the API.
type shownSettings struct {
	DLR     *string `json:"dlr_url"`
	Click   *string `json:"click_url"`
	Inbound *string `json:"inbound_url"`
	Revoke  *string `json:"revoke_click_url"`
	Auth    bool    `json:"auth"`
}

// accounts creates users 1 to n, each with four URLs, credentials, a document key that this version does not know, and
// an API key.
func accounts(t testing.TB, e *env, n int) []account {
	t.Helper()
	var records []*kgo.Record
	var all []account
	for user := int64(1); user <= int64(n); user++ {
		hooks := e.all(user, "u:p")
		r := harness.WebhookRecord(t, e.topics.Config, user, hooks)
		r.Value = []byte(strings.TrimSuffix(string(r.Value), "}") + `,"plan":{"n":[ 1.50,[] ],"big":9007199254740993}}`)
		records = append(records, r)
		// Keys are created like those of the CLI: the topic holds the hash.
		key := fmt.Sprintf("smsh_test%d", user)
		records = append(records, &kgo.Record{Topic: e.topics.Keys, Partition: harness.ByKey, Key: []byte(hashOf(key)), Value: []byte(fmt.Sprintf(`{"user_id":%d}`, user))})
		all = append(all, account{user, key})
	}
	harness.ProduceMany(t, e.kafka.Addr, records)
	return all
}

// call makes a request to the API and returns the status and, with 200, the returned settings.
func call(t testing.TB, p *harness.Proc, a account, form url.Values) (int, shownSettings) {
	t.Helper()
	method, path, body := http.MethodGet, "/v1/user/get-webhook", io.Reader(nil)
	if form != nil {
		method, path, body = http.MethodPost, "/v1/user/set-webhook", strings.NewReader(form.Encode())
	}
	ctx, cancel := context.WithTimeout(t.Context(), harness.Patience)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, method, "http://"+p.Addr+path, body)
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("X-API-KEY", a.key)
	if form != nil {
		req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	var reply struct{ Data json.RawMessage }
	var settings shownSettings
	if err := json.NewDecoder(resp.Body).Decode(&reply); err != nil {
		t.Fatalf("%s: %d, %v", path, resp.StatusCode, err)
	}
	if resp.StatusCode == http.StatusOK {
		if err := json.Unmarshal(reply.Data, &settings); err != nil {
			t.Fatal(err)
		}
	}
	return resp.StatusCode, settings
}

// wantWhole reports whether the API returns all settings of the user, with dlr as the first URL. It fails on every
// other reply except 503, or previous settings from an instance that may not have read the change yet.
func wantWhole(t testing.TB, e *env, p *harness.Proc, a account, dlr string, form url.Values, previous ...string) bool {
	t.Helper()
	status, s := call(t, p, a, form)
	if status == http.StatusServiceUnavailable {
		return false
	}
	hooks := e.all(a.user, "")
	is := func(got *string, want string) bool { return got != nil && *got == want }
	if status == http.StatusOK && s.DLR != nil && slices.Contains(previous, *s.DLR) {
		return false
	}
	if status != http.StatusOK || !is(s.DLR, dlr) || !is(s.Click, hooks.Click) || !is(s.Inbound, hooks.Inbound) || !is(s.Revoke, hooks.Revoke) || !s.Auth {
		text, _ := json.Marshal(s)
		t.Fatalf("user %d gets %d %s, want dlr_url %s and the rest unchanged", a.user, status, text, dlr)
	}
	return true
}

// wantDocument fails unless the newest document of a user in Kafka has dlr, everything else, and the unknown key
// verbatim.
func wantDocument(t testing.TB, e *env, a account, dlr string) {
	t.Helper()
	var last string
	for _, r := range harness.Consume(t, e.kafka.Addr, e.topics.Config) {
		if string(r.Key) == strconv.FormatInt(a.user, 10) {
			last = string(r.Value)
		}
	}
	hooks := e.all(a.user, "u:p")
	want := fmt.Sprintf(`{"user_id":%d,"dlr_url":"%s","click_url":"%s","inbound_url":"%s","revoke_click_url":"%s","auth":"u:p","plan":{"n":[ 1.50,[] ],"big":9007199254740993}}`,
		a.user, dlr, hooks.Click, hooks.Inbound, hooks.Revoke)
	if last != want {
		t.Errorf("the document in Kafka is\n%s, want\n%s", last, want)
	}
}

// rows returns the user's keys of this env on one server.
func rows(t testing.TB, e *env, cl redis.Cmdable, a account) []string {
	t.Helper()
	found, err := cl.Keys(t.Context(), e.topics.KeyPrefix+"????????????????:user:"+strconv.FormatInt(a.user, 10)).Result()
	if err != nil {
		t.Fatal(err)
	}
	return found
}

// TestDeletedRedisKeys deletes single keys from Redis. No reply may lack them, nothing may be overwritten with nothing,
// and they must be restored, also those that are not requested.
func TestDeletedRedisKeys(t *testing.T) {
	t.Parallel()
	e := &env{kafka: harness.Kafka(t), redis: harness.RedisArgs(t), topics: harness.TopicsFor(t)}
	e.begin(t, nil)
	all := accounts(t, e, 20)
	p, q := e.serve(t), e.serve(t)
	cl := e.redis.Client(t)
	lose := func(a account) (n int) {
		for _, name := range rows(t, e, cl, a) {
			if err := cl.Del(t.Context(), name).Err(); err != nil {
				t.Fatal(err)
			}
			n++
		}
		return n
	}
	for _, a := range all {
		if n := lose(a); n != 1 {
			t.Fatalf("%d keys of user %d in Redis, want 1", n, a.user)
		}
	}
	for i, a := range all[:10] {
		dlr := e.all(a.user, "").DLR
		served := []*harness.Proc{p, q}[i%2]
		harness.Eventually(t, 10*time.Second, func() bool { return wantWhole(t, e, served, a, dlr, nil) }, "an answer for user %d", a.user)
		lose(a)
		changed := dlr + "?changed"
		harness.Eventually(t, 10*time.Second, func() bool { return wantWhole(t, e, served, a, changed, url.Values{"dlr_url": {changed}}) }, "a change for user %d", a.user)
		lose(a)
		other := []*harness.Proc{q, p}[i%2]
		harness.Eventually(t, 10*time.Second, func() bool { return wantWhole(t, e, other, a, changed, nil, dlr) }, "a reply of the other instance for user %d", a.user)
		wantDocument(t, e, a, changed)
	}
	lost := time.Now()
	harness.Eventually(t, 10*time.Second, func() bool {
		for _, a := range all[10:] {
			if len(rows(t, e, cl, a)) < 1 {
				return false
			}
		}
		return true
	}, "the keys that were not requested are in Redis again")
	t.Logf("repaired %v after the last check", time.Since(lost).Round(time.Millisecond))
	for _, a := range all {
		e.emit(t, e.dlr(a.user, a.user))
	}
	e.recv.WaitCount(t, "", len(all), harness.Patience)
	for _, member := range []*harness.Proc{p, q} {
		if n := notConfigured(t, member); n != 0 {
			t.Errorf("%v events not configured", n)
		}
	}
}

// limitedRights are the least rights with which the service is ready. INFO, TIME, SCAN and HSCAN are not among them.
const limitedRights = "on >secret ~* resetchannels -@all +ping +exists +set +get +del +expire +lpush +ltrim +lrange +hget +hmget +hset +hdel +persist +pexpire +type +eval +evalsha +script|load"

// TestOldRedisSnapshot restarts Redis with older data, for a Redis user without the right to read server information.
func TestOldRedisSnapshot(t *testing.T) {
	t.Parallel()
	e := &env{kafka: harness.Kafka(t), topics: harness.TopicsFor(t), redis: harness.RedisArgs(t, append([]string{"--user", "app"}, strings.Fields(limitedRights)...)...)}
	e.begin(t, []string{"--redis.username=app", "--redis.password=secret"})
	all := accounts(t, e, 10)
	p := e.serve(t)
	cl := e.redis.Client(t)
	if err := cl.Do(t.Context(), "SAVE").Err(); err != nil {
		t.Fatal(err)
	}
	changed := func(a account) string { return e.all(a.user, "").DLR + "?changed" }
	for _, a := range all {
		if !wantWhole(t, e, p, a, changed(a), url.Values{"dlr_url": {changed(a)}}) {
			t.Fatal("refused with Redis running")
		}
	}
	e.redis.Kill(t)
	e.redis.Start(t)
	if old := cl.HGet(t.Context(), rows(t, e, cl, all[9])[0], "d").Val(); strings.Contains(old, "?changed") {
		t.Log("the snapshot was repaired before the test could read it")
	}
	for i, a := range all[:5] {
		if i%2 == 0 {
			harness.Eventually(t, 10*time.Second, func() bool { return wantWhole(t, e, p, a, changed(a), nil) }, "an answer for user %d", a.user)
		}
		again := changed(a) + "again"
		harness.Eventually(t, 10*time.Second, func() bool { return wantWhole(t, e, p, a, again, url.Values{"dlr_url": {again}}) }, "a change for user %d", a.user)
		wantDocument(t, e, a, again)
	}
	harness.Eventually(t, 10*time.Second, func() bool {
		for _, a := range all[5:] {
			if !strings.Contains(cl.HGet(t.Context(), rows(t, e, cl, a)[0], "d").Val(), changed(a)) {
				return false
			}
		}
		return true
	}, "Redis has the newest settings that were not requested")
}

// TestRedisClusterNodeFlushed empties one master of a cluster.
func TestRedisClusterNodeFlushed(t *testing.T) {
	t.Parallel()
	cluster := harness.OwnRedisCluster(t)
	e := &env{kafka: harness.Kafka(t), topics: harness.TopicsFor(t), redis: &cluster.RedisServer}
	e.begin(t, nil)
	all := accounts(t, e, 60)
	p := e.serve(t)
	node := cluster.Nodes[0].Client(t)
	before, err := node.DBSize(t.Context()).Result()
	if err != nil || before < 20 {
		t.Fatalf("%d keys on the node, %v", before, err)
	}
	mine := 0 // of the accounts
	for _, a := range all {
		mine += len(rows(t, e, node, a))
	}
	if err := node.FlushAll(t.Context()).Err(); err != nil {
		t.Fatal(err)
	}
	flushed := time.Now()
	for i, a := range all {
		dlr := e.all(a.user, "").DLR
		if i%2 == 0 {
			harness.Eventually(t, 5*time.Second, func() bool { return wantWhole(t, e, p, a, dlr, nil) }, "an answer for user %d", a.user)
			continue
		}
		changed := dlr + "?changed"
		harness.Eventually(t, 5*time.Second, func() bool { return wantWhole(t, e, p, a, changed, url.Values{"dlr_url": {changed}}) }, "a change for user %d", a.user)
	}
	harness.Eventually(t, 5*time.Second-time.Since(flushed)+harness.Slack(flushed), func() bool {
		n := 0
		for _, a := range all {
			n += len(rows(t, e, node, a))
		}
		return n >= mine
	}, "all %d keys are on the node again", mine)
	t.Logf("back after %v", time.Since(flushed).Round(time.Millisecond))
	wantDocument(t, e, all[1], e.all(all[1].user, "").DLR+"?changed")
}

// TestEvictedSettings lets Redis evict keys all the time.
func TestEvictedSettings(t *testing.T) {
	t.Parallel()
	e := &env{kafka: harness.Kafka(t), topics: harness.TopicsFor(t), redis: harness.RedisArgs(t, "--maxmemory", "8mb", "--maxmemory-policy", "allkeys-lru")}
	e.begin(t, nil)
	all := accounts(t, e, 100)
	p, q := e.serve(t), e.serve(t)
	cl := e.redis.Client(t)
	evicting, stop := context.WithCancel(t.Context())
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		junk := strings.Repeat("x", 10_000)
		for n := 0; evicting.Err() == nil; n++ {
			_ = cl.Set(evicting, "junk:"+strconv.Itoa(n), junk, 0).Err()
		}
	}()
	defer func() { stop(); <-ended }()
	harness.Eventually(t, 20*time.Second, func() bool {
		info, err := cl.Info(t.Context(), "stats").Result()
		return err == nil && !strings.Contains(info, "evicted_keys:0\r")
	}, "Redis evicts")
	for i, a := range all[:40] {
		served, other := p, q
		if i%2 == 1 {
			served, other = q, p
		}
		changed := e.all(a.user, "").DLR + "?changed"
		harness.Eventually(t, 10*time.Second, func() bool { return wantWhole(t, e, served, a, changed, url.Values{"dlr_url": {changed}}) }, "a change for user %d", a.user)
		harness.Eventually(t, 10*time.Second, func() bool { return wantWhole(t, e, other, a, changed, nil, e.all(a.user, "").DLR) }, "an answer for user %d", a.user)
	}
	for _, a := range all {
		e.emit(t, e.dlr(a.user, a.user))
	}
	e.recv.WaitCount(t, "", len(all), harness.Patience)
	if n := notConfigured(t, p) + notConfigured(t, q); n != 0 {
		t.Errorf("%v events not configured", n)
	}
	wantDocument(t, e, all[0], e.all(all[0].user, "").DLR+"?changed")
}

// TestGoneWhileStopped checks that a user and a key in Redis that the topics no longer hold (their tombstones were
// compacted away) are removed before the first event is sent.
func TestGoneWhileStopped(t *testing.T) {
	t.Parallel()
	e := &env{kafka: harness.Kafka(t), topics: harness.TopicsFor(t), redis: harness.RedisArgs(t)}
	e.begin(t, nil)
	a := accounts(t, e, 1)[0]
	p := e.serve(t)
	cl := e.redis.Client(t)
	p.Term(t)
	gone := account{777, "smsh_gone"}
	for _, name := range rows(t, e, cl, a) {
		fields := cl.HGetAll(t.Context(), name).Val()
		fields["d"] = strings.Replace(strings.Replace(fields["d"], `"user_id":1,`, `"user_id":777,`, 1), "/dlr/1", "/dlr/777", 1)
		err := cl.HSet(t.Context(), name[:strings.LastIndex(name, ":")+1]+"777", fields).Err()
		key := strings.Replace(name, "user:"+strconv.FormatInt(a.user, 10), "key:"+hashOf(gone.key), 1)
		if err = errors.Join(err, cl.HSet(t.Context(), key, "v", fields["v"], "d", "777").Err()); err != nil {
			t.Fatal(err)
		}
	}
	if n := len(rows(t, e, cl, gone)); n != 1 {
		t.Fatalf("%d keys of the user are in Redis, want 1", n)
	}
	e.emit(t, e.dlr(gone.user, 1), e.dlr(a.user, 2))
	p = e.serve(t)
	if n := len(rows(t, e, cl, gone)); n != 0 {
		t.Errorf("%d keys of the user are still in Redis", n)
	}
	if status, _ := call(t, p, gone, nil); status != http.StatusUnauthorized {
		t.Errorf("a key that is not in its topic gets %d", status)
	}
	e.recv.WaitCount(t, path("dlr", a.user), 1, harness.Patience)
	harness.Eventually(t, 10*time.Second, func() bool { return notConfigured(t, p) == 1 }, "the event of the removed user is not configured")
	if n := e.recv.Count(path("dlr", gone.user)); n != 0 {
		t.Errorf("%d requests for a removed user", n)
	}
}

// TestRecreatedConfigTopic deletes the topics of settings and keys under a running service.
func TestRecreatedConfigTopic(t *testing.T) {
	t.Parallel()
	e := newEnv(t)
	all := accounts(t, e, 3)
	p := e.serve(t)
	for range 5 { // offsets that the new topic does not reach
		e.configure(t, map[int64]harness.Webhook{1: e.all(1, "u:p")})
	}
	deleteTopics(t, e, e.topics.Config, e.topics.Keys)
	harness.Eventually(t, noticed, func() bool {
		status, text := p.Readyz()
		return status == http.StatusServiceUnavailable && strings.Contains(text, e.topics.Config) && strings.Contains(text, e.topics.Keys)
	}, "/readyz names the deleted topics")
	e.ensure(t)
	created := time.Now()
	hooks := e.all(1, "")
	hooks.DLR += "/new"
	e.configure(t, map[int64]harness.Webhook{1: hooks})
	harness.ProduceMany(t, e.kafka.Addr, []*kgo.Record{{Topic: e.topics.Keys, Partition: harness.ByKey, Key: []byte(hashOf(all[0].key)), Value: []byte(`{"user_id":1}`)}})
	harness.Eventually(t, noticed, func() bool {
		status, s := call(t, p, all[0], nil)
		return status == http.StatusOK && s.DLR != nil && *s.DLR == hooks.DLR && p.Ready()
	}, "the new topics are read")
	t.Logf("adopted after %v", time.Since(created).Round(time.Millisecond))
	harness.Eventually(t, noticed, func() bool { // the two topics are followed independently
		status, _ := call(t, p, all[1], nil)
		return status == http.StatusUnauthorized
	}, "a key of the previous topic is refused")
	if status, s := call(t, p, all[0], url.Values{"click_url": {hooks.Click + "/new"}}); status != http.StatusOK || s.DLR == nil || *s.DLR != hooks.DLR {
		t.Errorf("a change in the new topic gets %d", status)
	}
	e.emit(t, e.dlr(1, 1), e.dlr(2, 2))
	e.recv.WaitCount(t, path("dlr", 1)+"/new", 1, harness.Patience)
	harness.Eventually(t, 10*time.Second, func() bool { return notConfigured(t, p) == 1 }, "the event of a user who is not in the new topic is not configured")
}

// hashOf returns the key of an API key's record.
func hashOf(key string) string { return fmt.Sprintf("%x", sha256.Sum256([]byte(key))) }

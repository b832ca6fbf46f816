package faults_test

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"net"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/smshooks/smshooks/test/real/harness"
)

// hit is a request to the judge, small enough to store hundreds of thousands.
type hit struct {
	id      int32 // into judge.names
	attempt int32
	user    int64
	start   time.Duration // since judge.began
	end     time.Duration // when it was answered; 0 until then
	ok      bool          // whether the answer was a success
	by      string        // User-Agent: identifies the instance if the instances of a case have different versions
}

// manner is an endpoint's answer to an attempt: a status after a delay.
type manner func(kind string, user int64, attempt int) (status int, after time.Duration)

// judge is the customers' web server. It records every request and its answer.
type judge struct {
	addr  string
	began time.Time

	mu      sync.Mutex
	manner  manner
	numbers map[string]int32
	names   []string
	kindOf  []string // of the names
	hits    []hit
	agents  map[string]string // User-Agent headers, each kept once
	revoked map[int64][]int   // the successful hits of each revoked id
	flying  map[string]int
	widest  int // most requests of one endpoint in flight at once
}

// newJudge starts a judge. It stops when the test ends.
func newJudge(t testing.TB, m manner) *judge {
	t.Helper()
	j := &judge{addr: harness.FreeAddr(t), began: time.Now(), manner: m, numbers: map[string]int32{}, agents: map[string]string{}, revoked: map[int64][]int{}, flying: map[string]int{}}
	l, err := net.Listen("tcp", j.addr)
	if err != nil {
		t.Fatalf("judge: %v", err)
	}
	ctx, stop := context.WithCancel(context.Background())
	srv := &http.Server{Handler: j, ReadHeaderTimeout: 10 * time.Second, BaseContext: func(net.Listener) context.Context { return ctx }}
	go func() {
		if err := srv.Serve(l); !errors.Is(err, http.ErrServerClosed) {
			t.Errorf("judge: %v", err)
		}
	}()
	t.Cleanup(func() { stop(); _ = srv.Close() })
	return j
}

// Register what no log or metric of any case may contain.
const (
	envToken    = "token-of-the-env-f1c7"
	envPassword = "password-of-the-env-93ab"
)

// url returns the URL for a user's events of a kind.
func (j *judge) url(kind string, user int64) string {
	return "http://" + j.addr + "/" + kind + "/" + strconv.FormatInt(user, 10) + "?token=" + envToken
}

// behave changes the answers of endpoints from the next request on.
func (j *judge) behave(m manner) {
	j.mu.Lock()
	defer j.mu.Unlock()
	j.manner = m
}

// ServeHTTP implements http.Handler.
func (j *judge) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(r.Body)
	if err != nil {
		return // cut off before it was complete: not received
	}
	kind, tail, _ := strings.Cut(strings.TrimPrefix(r.URL.Path, "/"), "/")
	user, _ := strconv.ParseInt(tail, 10, 64)
	attempt, _ := strconv.Atoi(r.Header.Get("Webhook-Attempt"))
	n, m := j.begin(r, kind, user, attempt)
	status, after := m(kind, user, attempt)
	if after > 0 {
		select {
		case <-time.After(after):
		case <-r.Context().Done():
			j.end(n, r.URL.Path, false, nil)
			return
		}
	}
	w.WriteHeader(status)
	ok := status == http.StatusOK
	if kind != "revoke" {
		body = nil
	}
	j.end(n, r.URL.Path, ok, body)
}

func (j *judge) begin(r *http.Request, kind string, user int64, attempt int) (int, manner) {
	j.mu.Lock()
	defer j.mu.Unlock()
	name := r.Header.Get("Webhook-Id")
	id, known := j.numbers[name]
	if !known {
		id = int32(len(j.names))
		j.numbers[name] = id
		j.names = append(j.names, name)
		j.kindOf = append(j.kindOf, kind)
	}
	j.flying[r.URL.Path]++
	j.widest = max(j.widest, j.flying[r.URL.Path])
	by, known := j.agents[r.UserAgent()]
	if !known {
		by = r.UserAgent()
		j.agents[by] = by
	}
	j.hits = append(j.hits, hit{id: id, attempt: int32(attempt), user: user, start: time.Since(j.began), by: by})
	return len(j.hits) - 1, j.manner
}

func (j *judge) end(n int, path string, ok bool, batch []byte) {
	j.mu.Lock()
	defer j.mu.Unlock()
	j.hits[n].end, j.hits[n].ok = time.Since(j.began), ok
	j.flying[path]--
	if !ok || batch == nil {
		return
	}
	var ids struct {
		API      []int64 `json:"api_sms_ids"`
		Campaign []int64 `json:"campaign_sms_ids"`
	}
	if json.Unmarshal(batch, &ids) != nil {
		return // the ids are then missing in the ledger
	}
	for _, id := range append(ids.API, ids.Campaign...) {
		j.revoked[id] = append(j.revoked[id], n)
	}
}

// count returns the number of requests so far.
func (j *judge) count() int {
	j.mu.Lock()
	defer j.mu.Unlock()
	return len(j.hits)
}

// wait waits for n more requests.
func (j *judge) wait(t testing.TB, more int, timeout time.Duration) {
	t.Helper()
	from := j.count()
	harness.Eventually(t, timeout, func() bool { return j.count() >= from+more }, "%d more requests", more)
}

// seen is what the judge has recorded of one event.
type seen struct {
	hits []hit // in the order of their starts
	ok   bool
}

// since returns the requests from number n on, and the identities of their events.
func (j *judge) since(n int) (ids []string, hits []hit) {
	j.mu.Lock()
	defer j.mu.Unlock()
	hits = slices.Clone(j.hits[n:])
	for _, h := range hits {
		ids = append(ids, j.names[h.id])
	}
	return ids, hits
}

// events returns what was seen, by identity.
func (j *judge) events() map[string]*seen {
	j.mu.Lock()
	defer j.mu.Unlock()
	all := make(map[string]*seen, len(j.names))
	for _, h := range j.hits {
		s := all[j.names[h.id]]
		if s == nil {
			s = &seen{}
			all[j.names[h.id]] = s
		}
		s.hits = append(s.hits, h)
		s.ok = s.ok || h.ok
	}
	return all
}

// succeeded returns the revoked ids and the events that were answered with success.
func (j *judge) succeeded() (events map[string]bool, revoked map[int64]bool) {
	j.mu.Lock()
	defer j.mu.Unlock()
	events, revoked = map[string]bool{}, map[int64]bool{}
	for _, h := range j.hits {
		if h.ok {
			events[j.names[h.id]] = true
		}
	}
	for id := range j.revoked {
		revoked[id] = true
	}
	return events, revoked
}

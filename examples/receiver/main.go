// Command receiver is an example of a webhook receiver. It prints one line per event.
//
// It does what every receiver should do. It checks the signature of every request and the Basic Auth of delivery
// reports, both in constant time. It answers 200 quickly, and only after it has stored the event. It remembers the
// Webhook-Id of each event: a webhook may arrive twice, and the second one must have no effect. It remembers the
// Webhook-Event-Time of each message: an earlier event that arrives late must not replace a later one.
package main

import (
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/base64"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"mime"
	"net/http"
	"net/url"
	"os"
	"os/signal"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"
)

const (
	maxBody  = 1 << 20
	remember = 100_000 // ids, and messages; a real receiver stores them with the events
	// tolerance is how far the time of a signed request may be off. An older request may be a recorded one.
	tolerance = 5 * time.Minute
	minKey    = 24 // bytes
	eventTime = "2006-01-02T15:04:05.000Z"
)

func main() {
	addr := flag.String("addr", "127.0.0.1:8090", "host:port to listen on")
	auth := flag.String("auth", "", "user:pass that delivery receipts must have; empty for none")
	secret := flag.String("secret", "", "whsec_…, the secret that signs requests; empty for none")
	flag.Parse()
	key, err := parseSecret(*secret)
	if err != nil {
		fmt.Fprintf(os.Stderr, "receiver: -secret: %v\n", err)
		os.Exit(2)
	}
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, os.Interrupt)
	defer stop()
	if err := serve(ctx, *addr, newReceiver(*auth, key, os.Stdout)); err != nil {
		fmt.Fprintf(os.Stderr, "receiver: %v\n", err)
		os.Exit(1)
	}
}

func serve(ctx context.Context, addr string, r *receiver) error {
	server := &http.Server{Addr: addr, Handler: r.handler(), ReadHeaderTimeout: 5 * time.Second,
		ReadTimeout: 10 * time.Second}
	ended := make(chan error, 1)
	go func() { ended <- server.ListenAndServe() }()
	fmt.Fprintf(os.Stderr, "listening; set the webhook URLs to http://%s/dlr, /click, /inbound and /revoke_click\n", addr)
	select {
	case err := <-ended:
		return err
	case <-ctx.Done():
		ending, cancel := context.WithTimeout(context.Background(), 5*time.Second)
		defer cancel()
		return server.Shutdown(ending)
	}
}

// receiver prints events to out.
type receiver struct {
	auth string
	key  []byte // of signatures; nil = they are not checked
	out  io.Writer

	mu    sync.Mutex
	seen  *memory // Webhook-Ids
	times *memory // by kind and message, the time of the latest event
}

func newReceiver(auth string, key []byte, out io.Writer) *receiver {
	return &receiver{auth: auth, key: key, out: out, seen: newMemory(remember), times: newMemory(remember)}
}

// readers read the body of an event by its kind.
var readers = map[string]func(contentType string, body []byte) (message, text string, err error){
	"dlr":          sms(`dlr           message %[1]s is %[2]s`, "dlr_status"),
	"click":        sms(`click         message %[1]s, %[2]s`, "original_url"),
	"inbound":      sms(`inbound       message %[1]s from %[2]s: %[3]s`, "from", "message"),
	"revoke_click": revocation,
}

// handler returns a handler with one path per kind.
func (r *receiver) handler() http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		kind := kindOf(req.URL)
		switch {
		case readers[kind] == nil:
			http.NotFound(w, req)
		case req.Method != http.MethodPost:
			http.Error(w, "must be POST", http.StatusMethodNotAllowed)
		case kind == "dlr" && !r.authorised(req):
			w.Header().Set("WWW-Authenticate", `Basic realm="webhooks"`)
			http.Error(w, "wrong user or password", http.StatusUnauthorized)
		default:
			r.take(w, req, kind)
		}
	})
}

// kindOf returns the last segment of a URL's path: "dlr" for /dlr, /dlr/, /hooks/dlr and /dlr?x=1.
func kindOf(u *url.URL) string {
	path := strings.TrimRight(u.Path, "/")
	return path[strings.LastIndexByte(path, '/')+1:]
}

// authorised compares in constant time. Hashes hide the length, too.
func (r *receiver) authorised(req *http.Request) bool {
	if r.auth == "" {
		return true
	}
	user, pass, ok := req.BasicAuth()
	got, want := sha256.Sum256([]byte(user+":"+pass)), sha256.Sum256([]byte(r.auth))
	return subtle.ConstantTimeCompare(got[:], want[:]) == 1 && ok
}

// parseSecret returns the key of a secret, nil if there is none. A secret without its end is an error: anybody can sign
// with an empty key.
func parseSecret(secret string) ([]byte, error) {
	if secret == "" {
		return nil, nil
	}
	encoded, ok := strings.CutPrefix(secret, "whsec_")
	key, err := base64.StdEncoding.DecodeString(encoded)
	if !ok || err != nil || len(key) < minKey {
		return nil, errors.New("must be the signing secret, whsec_ and base64")
	}
	return key, nil
}

// signed reports whether one of the signatures is of this id, time and body, and the time is not far off.
func (r *receiver) signed(h http.Header, body []byte, now time.Time) bool {
	if r.key == nil {
		return true
	}
	seconds, err := strconv.ParseInt(h.Get("Webhook-Timestamp"), 10, 64)
	if err != nil || now.Sub(time.Unix(seconds, 0)).Abs() > tolerance {
		return false
	}
	mac := hmac.New(sha256.New, r.key)
	fmt.Fprintf(mac, "%s.%d.%s", h.Get("Webhook-Id"), seconds, body)
	want := []byte("v1," + base64.StdEncoding.EncodeToString(mac.Sum(nil)))
	for signature := range strings.FieldsSeq(h.Get("Webhook-Signature")) {
		if hmac.Equal([]byte(signature), want) {
			return true
		}
	}
	return false
}

// take reads an event, prints it unless it is a repeat or out of date, and answers 200.
func (r *receiver) take(w http.ResponseWriter, req *http.Request, kind string) {
	body, err := io.ReadAll(http.MaxBytesReader(w, req.Body, maxBody))
	if err != nil {
		http.Error(w, "cannot read the body", http.StatusBadRequest)
		return
	}
	if !r.signed(req.Header, body, time.Now()) {
		http.Error(w, "wrong signature", http.StatusUnauthorized)
		return
	}
	id, at := req.Header.Get("Webhook-Id"), req.Header.Get("Webhook-Event-Time")
	if _, err := time.Parse(eventTime, at); err != nil || id == "" {
		http.Error(w, "Webhook-Id or Webhook-Event-Time is missing", http.StatusBadRequest)
		return
	}
	message, text, err := readers[kind](req.Header.Get("Content-Type"), body)
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	if message == "" {
		message = id // a batch is an event of its own
	}
	if err := r.apply(id, kind+" "+message, at, func() error {
		_, err := fmt.Fprintf(r.out, "%s  id %s, attempt %s, of %s\n", text, id, req.Header.Get("Webhook-Attempt"), at)
		return err
	}); err != nil {
		http.Error(w, "cannot store the event", http.StatusInternalServerError) // the service retries
		return
	}
	w.WriteHeader(http.StatusOK)
}

// apply calls store, unless the event was stored before or a later one of the same message was. Times of this form
// compare as texts.
func (r *receiver) apply(id, message, at string, store func() error) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if _, seen := r.seen.values[id]; seen {
		return nil
	}
	if at >= r.times.values[message] {
		if err := store(); err != nil {
			return err
		}
		r.times.put(message, at)
	}
	r.seen.put(id, "")
	return nil
}

// memory remembers the values of the keys that were added last.
type memory struct {
	values map[string]string
	order  []string // the keys, as a ring
	next   int
}

func newMemory(size int) *memory {
	return &memory{values: map[string]string{}, order: make([]string, size)}
}

func (m *memory) put(key, value string) {
	if _, known := m.values[key]; !known {
		delete(m.values, m.order[m.next])
		m.order[m.next] = key
		m.next = (m.next + 1) % len(m.order)
	}
	m.values[key] = value
}

// sms returns a reader of forms whose field sms contains JSON. It describes the event with the message's id and fields.
func sms(format string, fields ...string) func(contentType string, body []byte) (message, text string, err error) {
	return func(contentType string, body []byte) (message, text string, err error) {
		if t, _, err := mime.ParseMediaType(contentType); err != nil || t != "application/x-www-form-urlencoded" {
			return "", "", errors.New("not a form")
		}
		form, err := url.ParseQuery(string(body))
		if err != nil {
			return "", "", errors.New("not a form")
		}
		// Raw JSON keeps all digits of large ids and contains no control characters.
		var sms map[string]json.RawMessage
		if err := json.Unmarshal([]byte(form.Get("sms")), &sms); err != nil || sms["id"] == nil {
			return "", "", errors.New("sms is not a JSON object with an id")
		}
		values := []any{sms["id"]}
		for _, field := range fields {
			values = append(values, sms[field])
		}
		return string(sms["id"]), fmt.Sprintf(format, values...), nil
	}
}

// revocation reads a batch of revoked clicks.
func revocation(_ string, body []byte) (message, text string, err error) {
	var batch struct {
		Event    string        `json:"event"`
		API      []json.Number `json:"api_sms_ids"`
		Campaign []json.Number `json:"campaign_sms_ids"`
	}
	if err := json.Unmarshal(body, &batch); err != nil || batch.Event != "clicks_revoked" {
		return "", "", errors.New("not a clicks_revoked event")
	}
	return "", fmt.Sprintf("revoke_click  api %v, campaigns %v", batch.API, batch.Campaign), nil
}

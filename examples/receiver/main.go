// Command receiver is an example of a webhook receiver. It prints one line per event.
//
// It does the four things that every receiver should do. It checks the signature of every request and the Basic Auth of
// delivery reports, both in constant time. It answers 200 quickly, and only after it has stored the event. It remembers
// the Webhook-Id of each event: a webhook may arrive twice, and the second one must have no effect.
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
	remember = 100_000 // ids; a real receiver stores them with the events
	// tolerance is how far the time of a signed request may be off. An older request may be a recorded one.
	tolerance = 5 * time.Minute
)

func main() {
	addr := flag.String("addr", "127.0.0.1:8090", "host:port to listen on")
	auth := flag.String("auth", "", "user:pass that delivery reports must have; empty for none")
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
	seen  map[string]bool // Webhook-Ids
	order []string        // the ids of seen, as a ring
	next  int
}

func newReceiver(auth string, key []byte, out io.Writer) *receiver {
	return &receiver{auth: auth, key: key, out: out, seen: map[string]bool{}, order: make([]string, remember)}
}

// handler returns a handler with one path per kind.
func (r *receiver) handler() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("POST /dlr", func(w http.ResponseWriter, req *http.Request) {
		if !r.authorised(req) {
			w.Header().Set("WWW-Authenticate", `Basic realm="webhooks"`)
			http.Error(w, "wrong user or password", http.StatusUnauthorized)
			return
		}
		r.take(w, req, message("dlr"))
	})
	mux.HandleFunc("POST /click", func(w http.ResponseWriter, req *http.Request) { r.take(w, req, message("click")) })
	mux.HandleFunc("POST /inbound", func(w http.ResponseWriter, req *http.Request) { r.take(w, req, message("inbound")) })
	mux.HandleFunc("POST /revoke_click", func(w http.ResponseWriter, req *http.Request) { r.take(w, req, revocation) })
	return mux
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

// parseSecret returns the key of a secret, nil if there is none.
func parseSecret(secret string) ([]byte, error) {
	if secret == "" {
		return nil, nil
	}
	encoded, ok := strings.CutPrefix(secret, "whsec_")
	key, err := base64.StdEncoding.DecodeString(encoded)
	if !ok || err != nil {
		return nil, errors.New("must be whsec_ and base64")
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

// take reads an event, prints it unless it was received before, and answers 200.
func (r *receiver) take(w http.ResponseWriter, req *http.Request,
	describe func(contentType string, body []byte) (string, error)) {
	body, err := io.ReadAll(http.MaxBytesReader(w, req.Body, maxBody))
	if err != nil {
		http.Error(w, "cannot read the body", http.StatusBadRequest)
		return
	}
	if !r.signed(req.Header, body, time.Now()) {
		http.Error(w, "wrong signature", http.StatusUnauthorized)
		return
	}
	text, err := describe(req.Header.Get("Content-Type"), body)
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	id := req.Header.Get("Webhook-Id")
	if err := r.once(id, func() error {
		_, err := fmt.Fprintf(r.out, "%s  id %s, attempt %s, of %s\n", text, id, req.Header.Get("Webhook-Attempt"),
			req.Header.Get("Webhook-Event-Time"))
		return err
	}); err != nil {
		http.Error(w, "cannot store the event", http.StatusInternalServerError) // the service retries
		return
	}
	w.WriteHeader(http.StatusOK)
}

// once calls store unless the id was stored before. An event without an id is always stored.
func (r *receiver) once(id string, store func() error) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.seen[id] {
		return nil
	}
	if err := store(); err != nil {
		return err
	}
	if id == "" {
		return nil
	}
	delete(r.seen, r.order[r.next])
	r.order[r.next], r.seen[id] = id, true
	r.next = (r.next + 1) % len(r.order)
	return nil
}

// message describes a form whose field sms contains JSON.
func message(kind string) func(string, []byte) (string, error) {
	return func(contentType string, body []byte) (string, error) {
		if t, _, err := mime.ParseMediaType(contentType); err != nil || t != "application/x-www-form-urlencoded" {
			return "", errors.New("not a form")
		}
		form, err := url.ParseQuery(string(body))
		if err != nil {
			return "", errors.New("not a form")
		}
		// Raw JSON keeps all digits of large ids and contains no control characters.
		var sms map[string]json.RawMessage
		if err := json.Unmarshal([]byte(form.Get("sms")), &sms); err != nil || sms == nil {
			return "", errors.New("sms is not a JSON object")
		}
		switch kind {
		case "click":
			return fmt.Sprintf("click         message %s, %s", sms["id"], sms["original_url"]), nil
		case "inbound":
			return fmt.Sprintf("inbound       message %s from %s: %s", sms["id"], sms["from"], sms["message"]), nil
		}
		return fmt.Sprintf("dlr           message %s is %s", sms["id"], sms["dlr_status"]), nil
	}
}

// revocation describes a batch of revoked clicks.
func revocation(_ string, body []byte) (string, error) {
	var batch struct {
		Event    string        `json:"event"`
		API      []json.Number `json:"api_sms_ids"`
		Campaign []json.Number `json:"campaign_sms_ids"`
	}
	if err := json.Unmarshal(body, &batch); err != nil || batch.Event != "clicks_revoked" {
		return "", errors.New("not a clicks_revoked event")
	}
	return fmt.Sprintf("revoke_click  api %v, campaigns %v", batch.API, batch.Campaign), nil
}

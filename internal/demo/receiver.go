package demo

import (
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"strconv"
	"sync"
	"time"

	"github.com/smshooks/smshooks/pkg/webhook"
)

// hang is the status of a receiver that never answers.
const hang = 0

// maxBody is more than any body of the demo.
const maxBody = 4 << 20

// receiver is a user's web server. It counts requests independently of the service.
type receiver struct {
	answer func(n int) int // status for the n-th request of an event, from 1
	addr   string
	server *http.Server

	mu        sync.Mutex
	asked     map[string]int // by Webhook-Id
	delivered map[string]bool
	requests  [webhook.NumKinds]int64
	records   int64 // of the gateway, in accepted events
	last      string
}

// start listens on a free loopback port.
func (r *receiver) start() error {
	r.asked, r.delivered, r.last = map[string]int{}, map[string]bool{}, "-"
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return fmt.Errorf("receiver: %w", err)
	}
	r.addr = l.Addr().String()
	r.server = &http.Server{Handler: r, ReadHeaderTimeout: 5 * time.Second}
	go func() { _ = r.server.Serve(l) }() // ends with ErrServerClosed
	return nil
}

func (r *receiver) url(k webhook.Kind) string { return "http://" + r.addr + "/" + k.String() }

// ServeHTTP receives one webhook.
func (r *receiver) ServeHTTP(w http.ResponseWriter, req *http.Request) {
	kind, err := webhook.ParseKind(req.URL.Path[1:])
	if err != nil {
		http.NotFound(w, req)
		return
	}
	id := req.Header.Get("Webhook-Id")
	r.mu.Lock()
	r.requests[kind]++
	r.asked[id]++
	status := r.answer(r.asked[id])
	r.mu.Unlock()
	// The server notices that the client has disconnected only after the whole body was read.
	body, err := io.ReadAll(io.LimitReader(req.Body, maxBody))
	if status == hang {
		begun := time.Now()
		<-req.Context().Done()
		r.replied("none in " + strconv.FormatFloat(time.Since(begun).Seconds(), 'f', 1, 64) + "s")
		return
	}
	if err == nil && status == http.StatusOK {
		r.take(id, recordsOf(kind, body))
	}
	r.replied(strconv.Itoa(status))
	w.WriteHeader(status)
}

func (r *receiver) replied(what string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.last = what
}

// take counts an event once, even if it is received several times.
func (r *receiver) take(id string, records int64) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if !r.delivered[id] {
		r.delivered[id] = true
		r.records += records
	}
}

// tally contains the counts of a receiver.
type tally struct {
	requests [webhook.NumKinds]int64
	records  int64
	last     string
}

func (r *receiver) tally() tally {
	r.mu.Lock()
	defer r.mu.Unlock()
	return tally{r.requests, r.records, r.last}
}

// recordsOf returns how many of the gateway's records are in a body or a batch. Each revocation of the demo has exactly
// one campaign id.
func recordsOf(kind webhook.Kind, body []byte) int64 {
	if kind != webhook.RevokeClick {
		return 1
	}
	var batch struct {
		Campaign []int64 `json:"campaign_sms_ids"`
	}
	if json.Unmarshal(body, &batch) != nil {
		return 0
	}
	return int64(len(batch.Campaign))
}

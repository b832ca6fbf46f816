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

// hang is the answer of a receiver that gives none.
const hang = 0

// maxBody is more than any body of the show.
const maxBody = 4 << 20

// receiver is a user's web server. It counts by itself and believes nothing that the service says.
type receiver struct {
	answer func(n int) int // status of the reply to the n-th request of one event, from 1
	addr   string
	server *http.Server

	mu        sync.Mutex
	asked     map[string]int // by Webhook-Id
	delivered map[string]bool
	requests  [webhook.NumKinds]int64
	records   int64 // of the gateway, whose events were taken
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

// ServeHTTP takes one webhook.
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
	// Read to its end, or the server would not notice when the caller gives up.
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

// take counts an event once, however often it comes.
func (r *receiver) take(id string, records int64) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if !r.delivered[id] {
		r.delivered[id] = true
		r.records += records
	}
}

// tally is what a receiver has counted so far.
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

// recordsOf tells how many of the gateway's records are in a body or a batch: each revocation of the show has exactly
// one id of a campaign.
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

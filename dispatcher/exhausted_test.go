package dispatcher

import (
	"net"
	"os"
	"reflect"
	"syscall"
	"testing"
	"time"

	"github.com/smshooks/smshooks/internal/event"
	"github.com/smshooks/smshooks/internal/topics"
	"github.com/smshooks/smshooks/pkg/webhook"
)

// TestExhaustedProcess checks that exhaustion of the process is not an attempt. The event keeps its number and
// goes to the shortest tier, whatever its endpoint's backlog.
func TestExhaustedProcess(t *testing.T) {
	full := &net.OpError{Op: "dial", Net: "tcp", Err: os.NewSyscallError("socket", syscall.EMFILE)}
	for name, err := range map[string]error{
		"dial": full,
		"ports": &net.OpError{Op: "dial", Net: "tcp", Addr: &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1), Port: 80},
			Err: os.NewSyscallError("connect", syscall.EADDRNOTAVAIL)},
		"resolve": &net.OpError{Op: "dial", Net: "tcp", Err: &net.DNSError{Err: full.Error(), Name: "example.com", Server: "127.0.0.1:53"}},
	} {
		t.Run(name, func(t *testing.T) {
			withEnv(t, func(t *testing.T, s *env) {
				s.noDial = err
				e := s.newEvent(webhook.DLR, 7, 1, "7")
				e.Attempts, e.Class, e.Failure = 1, topics.Retry, "http 503"
				s.backlog.added(backlogKey{endpoint: endpoint{1, webhook.DLR}}, 0)
				s.Handle([]*event.Event{e})
				s.Handle(s.dlrs(100, 900, 1))
				s.rest(time.Second)
				s.want(e.Identity(), "overflow 0")
				if e.Attempts != 1 || e.Failure != "http 503" || len(s.attempts) != 0 {
					t.Errorf("%d attempts, %q, %d logged, want them unchanged and nothing logged", e.Attempts, e.Failure, len(s.attempts))
				}
				s.mu.Lock()
				s.noDial = nil
				s.mu.Unlock()
				s.Handle(s.dlrs(5000, 1, 1))
				s.rest(time.Second)
				s.want("dlr/0/5000", "delivered")
				counted := s.counts()
				if want := map[string]int{"delivered": 1, "overflow 0": 901}; !reflect.DeepEqual(counted, want) {
					t.Errorf("ends %v, want %v", counted, want)
				}
				families, _ := s.registry.Gather()
				for _, f := range families {
					if f.GetName() == "smshooks_local_errors_total" && f.GetMetric()[0].GetCounter().GetValue() != 901 {
						t.Errorf("smshooks_local_errors_total: %v, want 901", f.GetMetric())
					}
				}
			})
		})
	}
}

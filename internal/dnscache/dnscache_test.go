package dnscache

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"golang.org/x/net/dns/dnsmessage"
)

// TestMain makes the resolver read its files outside of any bubble.
func TestMain(m *testing.M) {
	_, _ = (&net.Resolver{PreferGo: true}).LookupHost(context.Background(), "localhost")
	os.Exit(m.Run())
}

// server answers questions in the process: each packet written to it gets the messages that reply returns. They are
// read before the next packet.
type server struct {
	reply func(dnsmessage.Header, dnsmessage.Question) [][]byte
	fail  error // of dials

	mu    sync.Mutex
	asked []string
}

func (s *server) dial(context.Context, string, string) (net.Conn, error) {
	if s.fail != nil {
		return nil, s.fail
	}
	client, own := net.Pipe()
	go func() {
		defer own.Close()
		var buf [1500]byte
		for {
			n, err := own.Read(buf[:])
			if err != nil {
				return
			}
			var p dnsmessage.Parser
			head, _ := p.Start(buf[:n])
			q, err := p.Question()
			if err != nil {
				return
			}
			s.mu.Lock()
			s.asked = append(s.asked, fmt.Sprint(q.Name, " ", q.Type))
			s.mu.Unlock()
			for _, message := range s.reply(head, q) {
				if _, err := own.Write(message); err != nil {
					return
				}
			}
		}
	}()
	return packets{client}, nil
}

// packets makes the resolver treat a pipe as a packet connection.
type packets struct{ net.Conn }

// questions returns the number of questions since the last call.
func (s *server) questions() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	n := len(s.asked)
	s.asked = nil
	return n
}

// message builds a reply.
func message(head dnsmessage.Header, q dnsmessage.Question, add func(*dnsmessage.Builder) error) []byte {
	head.Response, head.RecursionAvailable = true, true
	b := dnsmessage.NewBuilder(nil, head)
	b.EnableCompression()
	if err := errors.Join(b.StartQuestions(), b.Question(q), add(&b)); err != nil {
		panic(err)
	}
	text, err := b.Finish()
	if err != nil {
		panic(err)
	}
	return text
}

// answering returns a server that answers with 192.0.2.n, valid for ttl seconds, and that there is no IPv6 address,
// valid for none seconds, or without a lifetime if that is negative.
func answering(n byte, ttl uint32, none int) func(dnsmessage.Header, dnsmessage.Question) [][]byte {
	return func(head dnsmessage.Header, q dnsmessage.Question) [][]byte {
		about := dnsmessage.ResourceHeader{Name: q.Name, Class: q.Class, TTL: ttl}
		return [][]byte{message(head, q, func(b *dnsmessage.Builder) error {
			switch {
			case q.Type == dnsmessage.TypeA:
				return errors.Join(b.StartAnswers(), b.AResource(about, dnsmessage.AResource{A: [4]byte{192, 0, 2, n}}))
			case none < 0:
				return nil
			}
			return addSOA(b, q, uint32(none))
		})}
	}
}

// addSOA adds the lifetime of an absence to a reply.
func addSOA(b *dnsmessage.Builder, q dnsmessage.Question, seconds uint32) error {
	about := dnsmessage.ResourceHeader{Name: q.Name, Class: q.Class, TTL: 3600}
	return errors.Join(b.StartAuthorities(), b.SOAResource(about, dnsmessage.SOAResource{NS: q.Name, MBox: q.Name, MinTTL: seconds}))
}

func resolver(s *server) (*net.Resolver, *cache) {
	c := newCache(s.dial)
	return &net.Resolver{PreferGo: true, Dial: c.open}, c
}

const name = "receiver.example."

func TestLifetimes(t *testing.T) {
	for _, tc := range []struct {
		what  string
		ttl   uint32
		none  int
		after time.Duration
		asked int // questions of a second lookup
	}{
		{"both alive", 30, 30, 29 * time.Second, 0},
		{"both expired", 30, 30, 30 * time.Second, 2},
		{"one expired", 5, 30, 10 * time.Second, 1},
		{"none kept", 0, 0, 0, 2},
		{"an absence without a lifetime", 30, -1, 0, 1},
		{"longer than is allowed", 86400, 86400, MaxAge - 1, 0},
		{"longer than is allowed, expired", 86400, 86400, MaxAge, 2},
	} {
		t.Run(tc.what, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := &server{reply: answering(1, tc.ttl, tc.none)}
				r, _ := resolver(s)
				look := func() {
					t.Helper()
					found, err := r.LookupHost(t.Context(), name)
					if err != nil || !slices.Equal(found, []string{"192.0.2.1"}) {
						t.Fatalf("found %v, %v", found, err)
					}
				}
				look()
				if n := s.questions(); n != 2 {
					t.Fatalf("%d questions for the first lookup", n)
				}
				time.Sleep(tc.after)
				look()
				if n := s.questions(); n != tc.asked {
					t.Errorf("%d questions after %v, want %d", n, tc.after, tc.asked)
				}
			})
		})
	}
}

func TestChangedAnswer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &server{reply: answering(1, 30, 30)}
		r, _ := resolver(s)
		for i := byte(1); i < 3; i++ {
			s.reply = answering(i, 30, 30)
			if found, err := r.LookupHost(t.Context(), name); err != nil || found[0] != fmt.Sprint("192.0.2.", i) {
				t.Errorf("answer %d: %v, %v", i, found, err)
			}
			time.Sleep(30 * time.Second)
		}
	})
}

// TestFailures checks that failures are not kept.
func TestFailures(t *testing.T) {
	nothing := func(*dnsmessage.Builder) error { return nil }
	for what, reply := range map[string]func(dnsmessage.Header, dnsmessage.Question) [][]byte{
		"no such name": func(h dnsmessage.Header, q dnsmessage.Question) [][]byte {
			h.RCode = dnsmessage.RCodeNameError
			return [][]byte{message(h, q, nothing)}
		},
		"refused": func(h dnsmessage.Header, q dnsmessage.Question) [][]byte {
			h.RCode = dnsmessage.RCodeRefused
			return [][]byte{message(h, q, nothing)}
		},
		"neither authoritative nor recursive": func(h dnsmessage.Header, q dnsmessage.Question) [][]byte {
			lame := message(h, q, func(b *dnsmessage.Builder) error { return addSOA(b, q, 30) })
			lame[3] &^= 0x80 // recursion available
			return [][]byte{lame}
		},
		"garbage": func(dnsmessage.Header, dnsmessage.Question) [][]byte { return [][]byte{{1, 2, 3}} },
	} {
		synctest.Test(t, func(t *testing.T) {
			s := &server{reply: reply}
			r, c := resolver(s)
			for range 2 {
				var failed *net.DNSError
				if _, err := r.LookupHost(t.Context(), name); !errors.As(err, &failed) {
					t.Errorf("%s: %v", what, err)
				}
				if s.questions() < 2 {
					t.Errorf("%s: no further question", what)
				}
			}
			if len(c.answers) != 0 || c.bytes != 0 {
				t.Errorf("%s: %d answers kept, %d bytes", what, len(c.answers), c.bytes)
			}
		})
	}
}

// behaviour says what a name server does with the questions for one address family.
type behaviour struct {
	address string        // "" = the name has none
	lost    int           // questions that are not answered
	after   time.Duration // time until others are
}

// behaving returns a server with two behaviours. Its answers are valid for 30 s.
func behaving(v4, v6 behaviour) *server {
	var mu sync.Mutex
	return &server{reply: func(head dnsmessage.Header, q dnsmessage.Question) [][]byte {
		b := &v6
		if q.Type == dnsmessage.TypeA {
			b = &v4
		}
		mu.Lock()
		b.lost--
		lost := b.lost >= 0
		mu.Unlock()
		if lost {
			return nil
		}
		time.Sleep(b.after)
		about := dnsmessage.ResourceHeader{Name: q.Name, Class: q.Class, TTL: 30}
		return [][]byte{message(head, q, func(m *dnsmessage.Builder) error {
			switch {
			case b.address == "":
				return addSOA(m, q, 30)
			case q.Type == dnsmessage.TypeA:
				return errors.Join(m.StartAnswers(), m.AResource(about, dnsmessage.AResource{A: netip.MustParseAddr(b.address).As4()}))
			}
			return errors.Join(m.StartAnswers(), m.AAAAResource(about, dnsmessage.AAAAResource{AAAA: netip.MustParseAddr(b.address).As16()}))
		})}
	}}
}

const (
	address4, address6 = "192.0.2.1", "2001:db8::1"
	never              = 1000
)

// TestOneFamilyIsMissing checks that the addresses of one family suffice if the name server does not answer for the
// other one, but only then.
func TestOneFamilyIsMissing(t *testing.T) {
	both := []string{address4, address6}
	for _, tc := range []struct {
		what   string
		v4, v6 behaviour
		found  []string
		took   time.Duration
		asked  int
	}{
		{"no answer for IPv6", behaviour{address: address4}, behaviour{lost: never}, both[:1], patience6, 3},
		{"no answer for IPv4", behaviour{lost: never}, behaviour{address: address6}, both[1:], patience4, 3},
		{"late addresses, no answer for IPv6", behaviour{address: address4, after: time.Second}, behaviour{lost: never},
			both[:1], time.Second + patience6, 3},
		{"a lost IPv6 packet", behaviour{address: address4}, behaviour{address: address6, lost: 1}, both, patience6 / 2, 3},
		{"a lost IPv4 packet", behaviour{address: address4, lost: 1}, behaviour{address: address6}, both, patience4 / 2, 3},
		{"late IPv6", behaviour{address: address4}, behaviour{address: address6, after: patience6/2 - 1}, both, patience6/2 - 1, 2},
		{"late IPv4", behaviour{address: address4, after: patience4/2 - 1}, behaviour{address: address6}, both, patience4/2 - 1, 2},
		{"late IPv6, no IPv4", behaviour{}, behaviour{address: address6, after: 4900 * time.Millisecond}, both[1:], 4900 * time.Millisecond, 2},
		{"late IPv4, no IPv6", behaviour{address: address4, after: 4900 * time.Millisecond}, behaviour{}, both[:1], 4900 * time.Millisecond, 2},
	} {
		t.Run(tc.what, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := behaving(tc.v4, tc.v6)
				r, c := resolver(s)
				look := func(took time.Duration, asked int) {
					t.Helper()
					began := time.Now()
					found, err := r.LookupHost(t.Context(), name)
					slices.Sort(found)
					if err != nil || !slices.Equal(found, tc.found) || time.Since(began) != took {
						t.Errorf("found %v, %v after %v, want %v after %v", found, err, time.Since(began), tc.found, took)
					}
					if n := s.questions(); n != asked {
						t.Errorf("%d questions, want %d", n, asked)
					}
				}
				look(tc.took, tc.asked)
				look(0, 0)
				if tc.v4.lost+tc.v6.lost >= never { // the answer may come from then on
					time.Sleep(missingAge)
					wait := patience6
					if tc.v4.lost >= never {
						wait = patience4
					}
					look(wait, 2)
				}
				if len(c.waiting) > 0 {
					t.Errorf("%d questions are left", len(c.waiting))
				}
			})
		})
	}
}

// TestNoFamilyAnswers checks that a name is not taken for one without addresses if no question is answered.
func TestNoFamilyAnswers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r, c := resolver(behaving(behaviour{lost: never}, behaviour{lost: never}))
		var failed *net.DNSError
		if found, err := r.LookupHost(t.Context(), name); !errors.As(err, &failed) || failed.IsNotFound || !failed.IsTimeout {
			t.Errorf("found %v, %v, want a timeout", found, err)
		}
		if len(c.answers) > 0 || len(c.waiting) > 0 {
			t.Errorf("%d answers kept, %d questions are left", len(c.answers), len(c.waiting))
		}
	})
}

// TestForgedAnswers checks that a message that the resolver ignores is not kept either.
func TestForgedAnswers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		right, wrong := answering(1, 30, 30), answering(66, 30, 30)
		s := &server{reply: func(h dnsmessage.Header, q dnsmessage.Question) [][]byte {
			otherID, other := h, q
			otherID.ID++
			other.Name = dnsmessage.MustNewName("other.example.")
			request := wrong(h, q)[0]
			request[2] &^= 0x80 // not a response
			return slices.Concat(wrong(otherID, q), wrong(h, other), [][]byte{request}, right(h, q))
		}}
		r, c := resolver(s)
		for range 2 {
			if found, err := r.LookupHost(t.Context(), name); err != nil || !slices.Equal(found, []string{"192.0.2.1"}) {
				t.Errorf("found %v, %v", found, err)
			}
		}
		if n := s.questions(); n != 2 || len(c.answers) != 2 {
			t.Errorf("%d questions, %d answers kept", n, len(c.answers))
		}
	})
}

func TestExhausted(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &server{fail: errors.New("socket: too many open files")}
		r, _ := resolver(s)
		_, err := r.LookupHost(t.Context(), name)
		var failed *net.DNSError
		if !errors.As(err, &failed) || failed.Err != s.fail.Error() {
			t.Errorf("without a descriptor: %v", err)
		}
	})
}

func TestBound(t *testing.T) {
	c := newCache(nil)
	for i := range 100_000 {
		c.put(fmt.Sprint("question ", i), make([]byte, 1232), MaxAge)
		if c.bytes > maxBytes {
			t.Fatalf("%d bytes in %d answers", c.bytes, len(c.answers))
		}
	}
	if len(c.answers) < 1000 {
		t.Errorf("only %d answers", len(c.answers))
	}
	for question := range c.answers {
		c.drop(question)
	}
	if c.bytes != 0 {
		t.Errorf("%d bytes without an answer", c.bytes)
	}
}

// FuzzAnswer checks that no message of a name server does harm.
func FuzzAnswer(f *testing.F) {
	q := dnsmessage.Question{Name: dnsmessage.MustNewName(name), Type: dnsmessage.TypeA, Class: dnsmessage.ClassINET}
	f.Add(answering(1, 30, 30)(dnsmessage.Header{ID: 7}, q)[0])
	q.Type = dnsmessage.TypeAAAA
	f.Add(answering(1, 30, 30)(dnsmessage.Header{ID: 7}, q)[0])
	f.Fuzz(func(t *testing.T, message []byte) {
		if head, question, ok := parse(message); ok && (len(question) > len(message) || len(message) < 12 || head.ID != uint16(message[0])<<8|uint16(message[1])) {
			t.Errorf("parsed %q", question)
		}
		_ = hasAddress(message)
		if life := lifetime(message); life < 0 || life > MaxAge {
			t.Errorf("lives %v", life)
		}
	})
}

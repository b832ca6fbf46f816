package limit

import (
	"net/http/httptest"
	"net/netip"
	"strconv"
	"testing"
	"time"
)

func TestLimiter(t *testing.T) {
	now := time.Now()
	l := New(5, 5)
	for i := range 5 {
		if wait := l.Take("a", now); wait != 0 {
			t.Fatalf("request %d has to wait %v", i, wait)
		}
	}
	if wait := l.Take("a", now); wait != 200*time.Millisecond {
		t.Errorf("the sixth request waits %v, want 200ms", wait)
	}
	if wait := l.Take("b", now); wait != 0 {
		t.Error("another key is refused")
	}
	now = now.Add(200 * time.Millisecond)
	if wait := l.Take("a", now); wait != 0 {
		t.Error("refused after the wait")
	}
	if wait := l.Take("a", now.Add(-time.Hour)); wait == 0 {
		t.Error("a clock that goes back grants requests")
	}
}

func TestNoLimit(t *testing.T) {
	l := New(0, 0)
	for range 1000 {
		if l.Take("a", time.Time{}) != 0 {
			t.Fatal("refused")
		}
	}
}

func TestLimiterForgets(t *testing.T) {
	now := time.Now()
	l := New(1, 1)
	for i := range 3 * most {
		l.Take(strconv.Itoa(i), now)
		if len(l.buckets) > most {
			t.Fatalf("%d buckets", len(l.buckets))
		}
	}
	for i := range 5000 {
		now = now.Add(time.Second)
		l.Take("x"+strconv.Itoa(i), now)
	}
	l.Take("last", now.Add(time.Second))
	if len(l.buckets) > most/2 {
		t.Errorf("%d idle buckets are kept", len(l.buckets))
	}
}

func TestClient(t *testing.T) {
	trusted := []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8"), netip.MustParsePrefix("10.0.0.0/8"), netip.MustParsePrefix("fd00::/8")}
	for _, tc := range []struct{ remote, forwarded, want string }{
		{"203.0.113.1:5000", "", "203.0.113.1"},
		{"203.0.113.1:5000", "198.51.100.7", "203.0.113.1"}, // the peer is not trusted
		{"192.168.0.1:5000", "198.51.100.7", "192.168.0.1"}, // private is not trusted by itself
		{"127.0.0.1:5000", "", "127.0.0.1"},
		{"127.0.0.1:5000", "1.2.3.4, 198.51.100.7", "198.51.100.7"},
		{"127.0.0.1:5000", "1.2.3.4, 198.51.100.7, 10.1.1.1", "198.51.100.7"},
		{"127.0.0.1:5000", "10.2.2.2, 10.1.1.1", "10.2.2.2"}, // all are trusted: the first
		{"127.0.0.1:5000", "198.51.100.7:4711", "198.51.100.7"},
		{"127.0.0.1:5000", "[2001:db8:1:2::9]:80", "2001:db8:1:2::/64"},
		{"10.0.0.1:5000", "1.2.3.4, nonsense", "10.0.0.1"},
		{"[2001:db8:1:2:3:4:5:6]:80", "", "2001:db8:1:2::/64"},
		{"[::ffff:203.0.113.1]:80", "", "203.0.113.1"},
		{"[::ffff:10.0.0.1]:80", "203.0.113.1", "203.0.113.1"},
		{"[fe80::1%eth0]:80", "", "fe80::/64"},
		{"[fd00::1]:80", "2001:db8::1", "2001:db8::/64"},
		{"@", "1.2.3.4", "unknown"},
	} {
		r := httptest.NewRequest("POST", "/", nil)
		r.RemoteAddr = tc.remote
		if tc.forwarded != "" {
			r.Header.Set("X-Forwarded-For", tc.forwarded)
		}
		if got := Client(r, trusted); got != tc.want {
			t.Errorf("%s, forwarded %q: %s, want %s", tc.remote, tc.forwarded, got, tc.want)
		}
	}
}

func TestPeer(t *testing.T) {
	for remote, want := range map[string]string{
		"203.0.113.1:5000": "203.0.113.1", "[::ffff:203.0.113.1]:80": "203.0.113.1", "[2001:db8:1:2:3:4:5:6]:80": "2001:db8:1:2::/64", "@": "unknown",
	} {
		if got := Peer(remote); got != want {
			t.Errorf("%s: %s, want %s", remote, got, want)
		}
	}
}

package webhook

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"fmt"
	"os"
	"strings"
	"testing"
	"time"
)

// specSecret, with the id, time, body and signature below, are the example of the Standard Webhooks specification.
const specSecret = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"

func mustSecret(t testing.TB, text string, until time.Time) Secret {
	t.Helper()
	s, err := ParseSecret(text, until)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func TestSignatureOfSpecification(t *testing.T) {
	var g Signer
	got := string(g.AppendSignatures(nil, []Secret{mustSecret(t, specSecret, time.Time{})}, "msg_p5jXN8AQM9LWM0D4loKWxJek",
		time.Unix(1614265330, 0), []byte(`{"test": 2432232314}`)))
	if want := "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="; got != want {
		t.Errorf("signature %s, want %s", got, want)
	}
}

// TestSignatureIsHMAC compares every length of secret, and bodies around the block size, with crypto/hmac.
func TestSignatureIsHMAC(t *testing.T) {
	var g Signer
	at := time.Unix(1772200000, 999)
	for n := minSecret; n <= maxSecret; n++ {
		key := []byte(strings.Repeat("k", n-1) + "\x00")
		secret := mustSecret(t, NewSecret(key), time.Time{})
		for _, length := range []int{0, 1, 31, 32, 33, 63, 64, 65, 1000, 70_000} {
			body := []byte(strings.Repeat("b", length))
			mac := hmac.New(sha256.New, key)
			fmt.Fprintf(mac, "evt_1.1772200000.%s", body)
			want := "v1," + base64.StdEncoding.EncodeToString(mac.Sum(nil))
			if got := string(g.AppendSignatures(nil, []Secret{secret}, "evt_1", at, body)); got != want {
				t.Fatalf("secret of %d bytes, body of %d: %s, want %s", n, length, got, want)
			}
		}
	}
}

func TestSignaturesDuringGrace(t *testing.T) {
	until := time.Unix(1000, 0)
	newer, older := mustSecret(t, NewSecret(make([]byte, 32)), time.Time{}), mustSecret(t, specSecret, until)
	var g Signer
	sign := func(at time.Time, secrets ...Secret) string {
		return string(g.AppendSignatures([]byte(">"), secrets, "id", at, []byte("body")))
	}
	before := until.Add(-time.Nanosecond)
	one, other := sign(before, newer), sign(before, older)
	if got, want := sign(before, newer, older), one+" "+other[1:]; got != want {
		t.Errorf("during the grace %q, want %q", got, want)
	}
	if got, want := sign(until, newer, older), sign(until, newer); got != want || strings.Contains(got, " ") {
		t.Errorf("after the grace %q, want %q", got, want)
	}
	if got := sign(until, older) + sign(until); got != ">>" {
		t.Errorf("without a valid secret %q", got)
	}
}

func TestParseSecret(t *testing.T) {
	for _, bad := range []string{
		"", "whsec_", "MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw", "whsec_!fKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw", "Whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw",
		NewSecret(make([]byte, minSecret-1)), NewSecret(make([]byte, maxSecret+1)), "enc:v1:AAAA",
	} {
		if _, err := ParseSecret(bad, time.Time{}); err == nil || len(bad) > 6 && strings.Contains(err.Error(), bad) {
			t.Errorf("%q: %v", bad, err)
		}
	}
}

// TestSignatureAllocatesNothing checks that signing costs a delivery no memory.
func TestSignatureAllocatesNothing(t *testing.T) {
	var g Signer
	secrets := []Secret{mustSecret(t, specSecret, time.Time{}), mustSecret(t, NewSecret(make([]byte, 32)), time.Time{})}
	dst, body, at := make([]byte, 0, 200), make([]byte, 852), time.Now()
	g.AppendSignatures(dst, secrets, "evt_2fJ0xq7GvKpZ3mNcR5sTbW", at, body)
	if n := testing.AllocsPerRun(1000, func() { g.AppendSignatures(dst, secrets, "evt_2fJ0xq7GvKpZ3mNcR5sTbW", at, body) }); n != 0 {
		t.Errorf("%v allocations a request", n)
	}
}

// BenchmarkSignature measures what one secret adds to a request with the body of a receipt.
func BenchmarkSignature(b *testing.B) {
	var g Signer
	secrets := []Secret{mustSecret(b, specSecret, time.Time{})}
	body, err := os.ReadFile("testdata/dlr.body.txt")
	if err != nil {
		b.Fatal(err)
	}
	dst := make([]byte, 0, 100)
	at := time.Now()
	b.ReportAllocs()
	for b.Loop() {
		dst = g.AppendSignatures(dst[:0], secrets, "evt_2fJ0xq7GvKpZ3mNcR5sTbW", at, body)
	}
}

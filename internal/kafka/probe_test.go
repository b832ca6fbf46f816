package kafka

import (
	"context"
	"errors"
	"io"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/sasl/plain"
	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
	"go.uber.org/zap/zaptest/observer"

	"github.com/smshooks/smshooks/internal/tlsfiles"
)

// answering starts a listener that calls serve for every connection.
func answering(t *testing.T, serve func(net.Conn)) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	go func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				serve(conn)
				conn.Close()
			}()
		}
	}()
	return l.Addr().String()
}

func readSome(conn net.Conn) { _, _ = conn.Read(make([]byte, 1024)) }

// TestProbe checks that every misconfiguration is an error within seconds that names the setting.
func TestProbe(t *testing.T) {
	cluster := newCluster(t)
	kafka := cluster.ListenAddrs()[0]
	http := answering(t, func(conn net.Conn) {
		readSome(conn)
		_, _ = io.WriteString(conn, "HTTP/1.1 400 Bad Request\r\n\r\n")
	})
	redis := answering(t, func(conn net.Conn) {
		readSome(conn)
		_, _ = io.WriteString(conn, "-ERR unknown command\r\n")
	})
	closes := answering(t, readSome)
	silent := answering(t, func(conn net.Conn) { time.Sleep(10 * time.Second) })
	tls, err := tlsfiles.Open("kafka.tls", tlsfiles.Settings{Enabled: true}, nil)
	if err != nil {
		t.Fatal(err)
	}
	for name, tc := range map[string]struct {
		config Config
		want   string // beginning of the error, "" = none
	}{
		"Kafka":              {Config{Brokers: []string{kafka}}, ""},
		"one of three":       {Config{Brokers: []string{silent, freeAddr(t), kafka}}, ""},
		"nothing":            {Config{Brokers: []string{freeAddr(t)}}, "kafka.brokers: broker 127.0.0.1:"},
		"HTTP":               {Config{Brokers: []string{http}}, "kafka.brokers: "},
		"Redis":              {Config{Brokers: []string{redis}}, "kafka.brokers: "},
		"closes":             {Config{Brokers: []string{closes}}, "kafka.brokers: "},
		"silent":             {Config{Brokers: []string{silent}}, "kafka.brokers: "},
		"no such name":       {Config{Brokers: []string{"nowhere.invalid:9092"}}, "kafka.brokers: "},
		"TLS to plaintext":   {Config{Brokers: []string{kafka}, TLS: tls}, "kafka.tls.enabled: "},
		"TLS, closes":        {Config{Brokers: []string{closes}, TLS: tls}, "kafka.tls.enabled: "},
		"login without need": {Config{Brokers: []string{kafka}, SASL: plain.Auth{User: "u", Pass: "p"}.AsMechanism()}, "kafka.brokers: "},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			began := time.Now()
			err := tc.config.Probe(context.Background())
			if (err == nil) != (tc.want == "") || err != nil && !strings.HasPrefix(err.Error(), tc.want) {
				t.Errorf("%v, want %q", err, tc.want)
			}
			if took := time.Since(began); took > probeTimeout+20*time.Second { // 20 s: on a busy machine
				t.Errorf("took %v", took)
			}
		})
	}
}

func TestExplainErrors(t *testing.T) {
	for _, tc := range []struct {
		err  error
		want string
	}{
		{nil, ""},
		{errors.New("other"), "other"},
		{context.Canceled, "context canceled"},
		{kerr.InvalidSessionTimeout, "kafka.session_timeout: "},
		{kerr.FencedInstanceID, "kafka.instance_id: "},
		{kerr.SaslAuthenticationFailed, "kafka.sasl.username: "},
		{kerr.GroupAuthorizationFailed, "kafka.group: "},
		{context.DeadlineExceeded, "kafka.brokers: "},
		{Explain(context.DeadlineExceeded), "kafka.brokers: context deadline exceeded (no answer"},
	} {
		got := ""
		if err := Explain(tc.err); err != nil {
			got = err.Error()
		}
		if !strings.HasPrefix(got, tc.want) || tc.want == "" && got != "" || strings.Count(got, "kafka.brokers: ") > 1 {
			t.Errorf("%v: %q, want %q", tc.err, got, tc.want)
		}
		if err := Explain(tc.err); tc.err != nil && !errors.Is(err, tc.err) {
			t.Errorf("%v does not wrap %v", err, tc.err)
		}
	}
}

// TestOutages checks that an outage of a broker is one line when it begins and one when it ends, whatever the number of
// clients and attempts.
func TestOutages(t *testing.T) {
	core, seen := observer.New(zapcore.InfoLevel)
	c := Config{Brokers: []string{freeAddr(t)}, Log: zap.New(core), Outages: NewOutages(zap.New(core))}
	for range 3 {
		client, err := c.NewClient()
		if err != nil {
			t.Fatal(err)
		}
		for range 3 {
			ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
			if client.Ping(ctx) == nil {
				t.Fatal("an unexpected answer")
			}
			cancel()
		}
		client.Close()
	}
	if lines := seen.TakeAll(); len(lines) != 1 || lines[0].ContextMap()["broker"] != c.Brokers[0] || !strings.HasPrefix(lines[0].ContextMap()["error"].(string), "kafka.brokers: ") {
		t.Fatalf("lines %v, want one that names the broker and the setting", lines)
	}
	_, port, _ := net.SplitHostPort(c.Brokers[0])
	number, err := net.LookupPort("tcp", port)
	if err != nil {
		t.Fatal(err)
	}
	newCluster(t, kfake.Ports(number))
	client, err := c.NewClient()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(client.Close)
	if err := client.Ping(t.Context()); err != nil {
		t.Fatal(err)
	}
	if lines := seen.TakeAll(); len(lines) != 1 || lines[0].Message != "the Kafka broker can be used again" {
		t.Fatalf("lines %v, want one", lines)
	}
}

package kafka

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/smshooks/smshooks/internal/tlsfiles"
)

// explained is an error with the setting that most likely causes it, and what to do.
type explained struct {
	setting, advice string
	err             error
}

func (e *explained) Error() string { return e.setting + ": " + e.err.Error() + " (" + e.advice + ")" }

func (e *explained) Unwrap() error { return e.err }

// Explain returns err with the name of the setting that most likely causes it and what to do. It returns err itself if
// no setting does.
func Explain(err error) error {
	if _, done := errors.AsType[*explained](err); err == nil || done {
		return err
	}
	if reply, ok := errors.AsType[*kerr.Error](err); ok {
		return explainReply(reply, err)
	}
	if _, ok := errors.AsType[*tlsfiles.SettingError](err); ok {
		return err
	}
	if login, ok := errors.AsType[*loginError](err); ok {
		return &explained{login.setting, login.advice, err}
	}
	if setting, advice := explainTLS(err); setting != "" {
		return &explained{setting, advice, err}
	}
	var (
		dns     *net.DNSError
		address *net.AddrError
		eof     *kgo.ErrFirstReadEOF
		timeout net.Error
	)
	const brokers = "kafka.brokers"
	switch {
	case errors.Is(err, context.Canceled), errors.Is(err, kgo.ErrClientClosed):
		return err
	case errors.As(err, &eof), errors.Is(err, syscall.ECONNRESET), errors.Is(err, io.EOF):
		return &explained{brokers, "the server closed the connection: " +
			"it is starting, is not Kafka, or expects other settings of kafka.tls and kafka.sasl", err}
	case errors.As(err, &dns):
		return &explained{brokers, "check the name; brokers announce other names in advertised.listeners", err}
	case errors.As(err, &address):
		return &explained{brokers, "give host:port", err}
	case errors.Is(err, syscall.ECONNREFUSED):
		return &explained{brokers, "check that Kafka is running there and that the port is right", err}
	case strings.Contains(err.Error(), "invalid large response size"),
		strings.Contains(err.Error(), "correlation ID mismatch"),
		strings.Contains(err.Error(), "short response"): // the client has no type for these
		return &explained{brokers, "the server is not Kafka: check the port", err}
	case errors.Is(err, context.DeadlineExceeded), errors.Is(err, os.ErrDeadlineExceeded),
		errors.As(err, &timeout) && timeout.Timeout():
		return &explained{brokers, "no answer in time: check that Kafka is running there, the port, and firewalls", err}
	}
	return err
}

func explainTLS(err error) (setting, advice string) {
	var (
		verify *tls.CertificateVerificationError
		host   x509.HostnameError
		record tls.RecordHeaderError
		shake  *tlsfiles.HandshakeError
		op     *net.OpError
	)
	switch {
	case errors.As(err, &host):
		return "kafka.tls.server_name", "the broker's certificate is for another name"
	case errors.As(err, &verify):
		return "kafka.tls.ca_file", "the broker's certificate is not signed by a trusted authority"
	case errors.As(err, &op) && op.Op == "remote error":
		return "kafka.tls.cert_file", "the broker refuses the client's certificate or requires one"
	case errors.As(err, &record), errors.As(err, &shake):
		return "kafka.tls.enabled", "the port does not seem to speak TLS: turn TLS off, or use the TLS port in kafka.brokers"
	}
	return "", ""
}

func explainReply(reply *kerr.Error, err error) error {
	switch reply.Code {
	case kerr.SaslAuthenticationFailed.Code:
		return &explained{"kafka.sasl.username", "the broker refuses the login: check it and kafka.sasl.password, " +
			"or the token of kafka.sasl.oauth", err}
	case kerr.UnsupportedSaslMechanism.Code, kerr.IllegalSaslState.Code:
		return &explained{"kafka.sasl.mechanism", "the broker expects another mechanism", err}
	case kerr.InvalidSessionTimeout.Code:
		return &explained{"kafka.session_timeout",
			"must be between the broker's group.min.session.timeout.ms and its group.max.session.timeout.ms", err}
	case kerr.FencedInstanceID.Code:
		return &explained{"kafka.instance_id", "another process uses the same id: give each process its own", err}
	case kerr.UnreleasedInstanceID.Code:
		return &explained{"kafka.instance_id", "the group waits for the process that had this id: if it was killed, " +
			"until its session has expired; if it runs, give each process its own", err}
	case kerr.InvalidGroupID.Code:
		return &explained{"kafka.group", "the broker does not accept this name", err}
	case kerr.GroupAuthorizationFailed.Code:
		return &explained{"kafka.group", "the Kafka user needs the right Read on this group", err}
	}
	return err
}

const (
	// probeTimeout bounds the first answer of a broker, probeDialTimeout the connection and its TLS handshake.
	probeTimeout     = 5 * time.Second
	probeDialTimeout = 3 * time.Second
)

// Probe contacts every broker of kafka.brokers at once, and returns nil as soon as one answers. Otherwise it returns
// within seconds, with an error that names the setting to check. The client itself would keep retrying for long.
func (c Config) Probe(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, probeTimeout)
	defer cancel()
	c.Log, c.PaceFetches, c.dialTimeout = nil, false, probeDialTimeout
	answers := make(chan error, len(c.Brokers))
	for _, broker := range c.Brokers {
		one := c
		one.Brokers = []string{broker}
		go func() { answers <- one.ask(ctx) }()
	}
	var failed []error
	for range c.Brokers {
		err := <-answers
		if err == nil {
			return nil
		}
		failed = append(failed, err)
	}
	// Of several errors prefer one that may pass, and one that is more specific than a timeout.
	slices.SortStableFunc(failed, func(a, b error) int { return rank(a) - rank(b) })
	return Explain(failed[0])
}

func rank(err error) int {
	switch {
	case !IsUnavailable(err):
		return 2
	case errors.Is(err, context.DeadlineExceeded):
		return 1
	}
	return 0
}

// ask makes one connection and one request, without retries.
func (c Config) ask(ctx context.Context) error {
	refused := make(chan error, 1)
	first := connectHook(func(_ kgo.BrokerMetadata, err error) {
		if err == nil {
			return
		}
		select {
		case refused <- err:
		default:
		}
	})
	client, err := c.NewClient(kgo.RequestRetries(0), kgo.WithHooks(first))
	if err != nil {
		return err
	}
	defer client.Close()
	pinged := make(chan error, 1)
	go func() { pinged <- client.Ping(ctx) }()
	select {
	case err = <-pinged:
	case err = <-refused:
	}
	if err != nil {
		return fmt.Errorf("broker %s: %w", c.Brokers[0], err)
	}
	return nil
}

package dispatcher

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"io"
	"net"
	"os"
	"strings"
	"syscall"

	"github.com/smshooks/smshooks/pkg/webhook"
)

// classify names a failed request by the closed list of failures. ctx is the request's own, with its deadline.
func classify(ctx context.Context, err error) webhook.Failure {
	var (
		blocked blockedError
		dns     *net.DNSError
	)
	switch {
	case errors.As(err, &blocked):
		return webhook.BlockedAddress
	case ctx.Err() != nil, errors.Is(err, context.DeadlineExceeded), errors.Is(err, os.ErrDeadlineExceeded), errors.Is(err, syscall.ETIMEDOUT):
		return webhook.Timeout
	case errors.As(err, &dns):
		return webhook.DNS
	case errors.Is(err, syscall.ECONNREFUSED):
		return webhook.ConnectionRefused
	case isTLS(err):
		return webhook.TLS
	case errors.Is(err, syscall.ECONNRESET), errors.Is(err, syscall.EPIPE), errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF):
		return webhook.ConnectionReset
	}
	return webhook.Network
}

func isTLS(err error) bool {
	var (
		header    tls.RecordHeaderError
		alert     tls.AlertError
		verify    *tls.CertificateVerificationError
		unknownCA x509.UnknownAuthorityError
		host      x509.HostnameError
		invalid   x509.CertificateInvalidError
	)
	if errors.As(err, &header) || errors.As(err, &alert) || errors.As(err, &verify) ||
		errors.As(err, &unknownCA) || errors.As(err, &host) || errors.As(err, &invalid) {
		return true
	}
	// crypto/tls and net/http give some failures no type of their own.
	text := err.Error()
	return strings.Contains(text, "tls: ") || strings.Contains(text, "server gave HTTP response to HTTPS client")
}

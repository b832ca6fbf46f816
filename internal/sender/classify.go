package sender

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
	"time"

	"github.com/smshooks/smshooks/pkg/webhook"
)

// classify returns the failure for err. deadline is the request's.
func classify(err error, deadline time.Time) webhook.Failure {
	_, blocked := errors.AsType[blockedError](err)
	_, dns := errors.AsType[*net.DNSError](err)
	switch {
	case blocked:
		return webhook.BlockedAddress
	case !time.Now().Before(deadline), errors.Is(err, context.DeadlineExceeded), errors.Is(err, os.ErrDeadlineExceeded),
		errors.Is(err, syscall.ETIMEDOUT):
		return webhook.Timeout
	case dns:
		return webhook.DNS
	case errors.Is(err, syscall.ECONNREFUSED):
		return webhook.ConnectionRefused
	case isTLS(err):
		return webhook.TLS
	case errors.Is(err, syscall.ECONNRESET), errors.Is(err, syscall.EPIPE), errors.Is(err, io.EOF),
		errors.Is(err, io.ErrUnexpectedEOF):
		return webhook.ConnectionReset
	}
	return webhook.Network
}

// isTLS reports whether the TLS handshake failed.
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
	// Some errors of crypto/tls and net/http have no type.
	text := err.Error()
	return strings.Contains(text, "tls: ") || strings.Contains(text, "server gave HTTP response to HTTPS client")
}

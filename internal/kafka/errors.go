package kafka

import (
	"context"
	"crypto/tls"
	"errors"
	"net"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
)

// IsUnavailable reports whether err means that Kafka, or the part of it that was asked, cannot serve
// now: unreachable, no leader, no quorum of replicas, a timeout. A later try may succeed.
// It is false for nil, for a refusal that lasts until something is changed (credentials,
// permissions, certificates, a topic that does not exist, a record that is too large), and for a
// client or context that was closed on purpose.
func IsUnavailable(err error) bool {
	if err == nil || errors.Is(err, context.Canceled) || errors.Is(err, kgo.ErrClientClosed) {
		return false
	}
	if isTLSRefusal(err) {
		return false
	}
	if reply, ok := errors.AsType[*kerr.Error](err); ok {
		return isUnavailableReply(reply)
	}
	if errors.Is(err, context.DeadlineExceeded) || errors.Is(err, kgo.ErrRecordTimeout) ||
		errors.Is(err, kgo.ErrRecordRetries) {
		return true
	}
	// A connection that is closed at once may be a broker without the TLS or SASL that we speak, but
	// it is also what a proxy does while the broker behind it starts.
	if _, ok := errors.AsType[*kgo.ErrFirstReadEOF](err); ok {
		return true
	}
	if _, ok := errors.AsType[*net.AddrError](err); ok {
		return false // the address is not host:port: it never becomes one
	}
	if _, ok := errors.AsType[net.Error](err); ok {
		return true // dialling, resolving, reading, writing
	}
	return kgo.IsRetryableBrokerErr(err)
}

// isTLSRefusal recognises the refusals of both sides: of the broker's certificate or its first bytes by us, and of our
// certificate by the broker (which net reports as a "remote error" without a public type).
func isTLSRefusal(err error) bool {
	if _, ok := errors.AsType[*tls.CertificateVerificationError](err); ok {
		return true
	}
	if _, ok := errors.AsType[tls.RecordHeaderError](err); ok {
		return true
	}
	op, ok := errors.AsType[*net.OpError](err)
	return ok && (op.Op == "remote error" || op.Op == "local error")
}

func isUnavailableReply(reply *kerr.Error) bool {
	switch reply.Code {
	case kerr.UnknownTopicOrPartition.Code:
		return false // Kafka calls it retriable, but a missing topic stays missing until it is created
	case kerr.BrokerNotAvailable.Code, kerr.ReplicaNotAvailable.Code:
		return true
	}
	return reply.Retriable
}

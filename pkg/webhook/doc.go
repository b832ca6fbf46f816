// Package webhook defines kinds, endpoints, fates and failures. It decodes records and encodes the bodies of requests.
//
// It depends on neither Kafka nor HTTP: a record is the bytes of its value, an endpoint is a URL. A decoded [Message]
// holds positions in the value instead of copies, so the value must not change while the Message is in use.
package webhook

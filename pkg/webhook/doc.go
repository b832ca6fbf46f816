// Package webhook holds the event, its kind, its endpoint and its outcome; it
// decodes a record and encodes the body that is sent for it.
//
// It knows neither Kafka nor HTTP: a record is its value's bytes, an endpoint
// a URL. Decoding keeps byte spans into the value instead of copies, so the
// value must stay unchanged as long as the Message decoded from it is used.
package webhook

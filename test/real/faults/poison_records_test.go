package faults_test

import (
	"bytes"
	"fmt"
	"strconv"
	"strings"

	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/smshooks/smshooks/test/real/harness"
)

// poison is a kind of record that is not a valid event.
type poison struct {
	name  string
	topic func(harness.Topics) string
	value func(user, n int64) []byte
}

func dlrTopic(t harness.Topics) string        { return t.DLR }
func clickTopic(t harness.Topics) string      { return t.Click }
func inboundTopic(t harness.Topics) string    { return t.Inbound }
func revocationTopic(t harness.Topics) string { return t.Revocation }

// poisons returns the kinds. In a value, USER stands for the user and ID for a unique number.
func poisons() []poison {
	var all []poison
	add := func(name string, topic func(harness.Topics) string, format string) {
		all = append(all, poison{name: name, topic: topic, value: func(user, n int64) []byte {
			text := strings.NewReplacer("USER", strconv.FormatInt(user, 10), "ID", strconv.FormatInt(n, 10)).Replace(format)
			return []byte(text)
		}})
	}
	const good = `"sms":{"id":ID,"status":"sent"}`
	// not JSON
	all = append(all, poison{name: "null value", topic: dlrTopic, value: func(_, _ int64) []byte { return nil }})
	add("empty value", dlrTopic, "")
	add("text", inboundTopic, "hello ID")
	add("cut off", dlrTopic, `{"user_id":USER,"sms":{"id":ID,"status":"se`)
	add("trailing data", clickTopic, `{"user_id":USER,`+good+`} x`)
	add("two objects", dlrTopic, `{"user_id":USER,`+good+`}{"user_id":USER,`+good+`}`)
	add("single quotes", dlrTopic, `{'user_id':USER,'sms':{'id':ID}}`)
	add("a surplus comma", inboundTopic, `{"user_id":USER,`+good+`,}`)
	add("a comment", dlrTopic, `{"user_id":USER,`+good+`} // x`)
	add("NaN", dlrTopic, `{"user_id":USER,"sms":{"id":ID,"cost":NaN}}`)
	add("a leading zero", dlrTopic, `{"user_id":USER,"sms":{"id":ID,"parts":01}}`)
	add("a line feed in a string", inboundTopic, "{\"user_id\":USER,\"sms\":{\"id\":ID,\"message\":\"a\nb\"}}")
	add("a wrong escape", dlrTopic, `{"user_id":USER,"sms":{"id":ID,"text":"\x41"}}`)
	add("a zero byte", dlrTopic, "{\"user_id\":USER,\"sms\":{\"id\":ID}}\x00")
	add("a byte order mark", dlrTopic, "\xef\xbb\xbf{\"user_id\":USER,\"sms\":{\"id\":ID}}")
	add("UTF-16", clickTopic, "\xff\xfe{\x00}\x00")
	add("Latin-1", inboundTopic, "{\"user_id\":USER,\"sms\":{\"id\":ID,\"message\":\"\xe9\"}}")
	add("a surrogate in UTF-8", dlrTopic, "{\"user_id\":USER,\"sms\":{\"id\":ID,\"text\":\"\xed\xa0\x80\"}}")
	add("bytes of another protocol", dlrTopic, "\x00\x00\x00\x01\x02\x0a\x80\xff"+"ID")
	all = append(all, poison{name: "a hundred thousand brackets", topic: dlrTopic, value: func(_, _ int64) []byte { return bytes.Repeat([]byte("["), 100_000) }})
	all = append(all, poison{name: "nested too deep", topic: dlrTopic, value: func(user, n int64) []byte {
		return fmt.Appendf(nil, `{"user_id":%d,"sms":{"id":%d,"x":%s%s}}`, user, n, strings.Repeat("[", 50_000), strings.Repeat("]", 50_000))
	}})
	// JSON, but not a record
	add("null", dlrTopic, "null")
	add("a list", clickTopic, "[]")
	add("a number", dlrTopic, "42")
	add("an empty object", revocationTopic, "{}")
	add("no user", dlrTopic, `{`+good+`}`)
	add("a user in quotes", dlrTopic, `{"user_id":"USER",`+good+`}`)
	add("user 0", inboundTopic, `{"user_id":0,`+good+`}`)
	add("a negative user", dlrTopic, `{"user_id":-USER,`+good+`}`)
	add("half a user", dlrTopic, `{"user_id":1.5,`+good+`}`)
	add("a user with an exponent", dlrTopic, `{"user_id":1e3,`+good+`}`)
	add("user 2^63", dlrTopic, `{"user_id":9223372036854775808,`+good+`}`)
	add("a user of a hundred digits", dlrTopic, `{"user_id":`+strings.Repeat("9", 100)+`,`+good+`}`)
	add("a user who is null", revocationTopic, `{"user_id":null,"api_sms_ids":[ID]}`)
	add("the last of two users", dlrTopic, `{"user_id":USER,"user_id":"x",`+good+`}`)
	add("no sms", dlrTopic, `{"user_id":USER}`)
	add("sms is null", clickTopic, `{"user_id":USER,"sms":null}`)
	add("sms is a list", dlrTopic, `{"user_id":USER,"sms":[]}`)
	add("sms is a string", inboundTopic, `{"user_id":USER,"sms":"{}"}`)
	add("no id", dlrTopic, `{"user_id":USER,"sms":{"status":"sent"}}`)
	add("the id is null", dlrTopic, `{"user_id":USER,"sms":{"id":null}}`)
	add("the id is true", clickTopic, `{"user_id":USER,"sms":{"id":true}}`)
	add("the id is an object", dlrTopic, `{"user_id":USER,"sms":{"id":{}}}`)
	add("a field is an object", dlrTopic, `{"user_id":USER,"sms":{"id":ID,"status":{"a":1}}}`)
	add("a field is a list", inboundTopic, `{"user_id":USER,"sms":{"id":ID,"message":["a"]}}`)
	add("bot is 1", clickTopic, `{"user_id":USER,`+good+`,"bot":1}`)
	add("preview is a string", clickTopic, `{"user_id":USER,`+good+`,"preview":"true"}`)
	add("bot is null", clickTopic, `{"user_id":USER,`+good+`,"bot":null}`)
	add("a revoked id of a half", revocationTopic, `{"user_id":USER,"api_sms_ids":[1.5]}`)
	add("a revoked id in quotes", revocationTopic, `{"user_id":USER,"campaign_sms_ids":["ID"]}`)
	add("revoked ids in an object", revocationTopic, `{"user_id":USER,"api_sms_ids":{"a":1}}`)
	add("revoked ids in lists", revocationTopic, `{"user_id":USER,"api_sms_ids":[[ID]]}`)
	return all
}

// odd returns records that look wrong but are valid, and must be delivered.
func odd(topics harness.Topics, user, n int64) []*kgo.Record {
	id := strconv.FormatInt(n, 10)
	of := func(value string) *kgo.Record {
		return harness.Event(topics.DLR, user, strings.NewReplacer("USER", strconv.FormatInt(user, 10), "ID", id).Replace(value))
	}
	miskeyed := of(`{"user_id":USER,"sms":{"id":"miskeyed-ID"}}`)
	miskeyed.Key = []byte("somebody else")
	keyless := of(`{"user_id":USER,"sms":{"id":"keyless-ID"}}`)
	keyless.Key, keyless.Partition = nil, 0
	headers := of(`{"user_id":USER,"sms":{"id":"headers-ID"}}`)
	for _, name := range []string{"smshooks-id", "smshooks-attempts", "smshooks-due", "smshooks-event-time", "smshooks-error", "smshooks-replayed"} {
		headers.Headers = append(headers.Headers, kgo.RecordHeader{Key: name, Value: []byte("99")}) // headers of a source are ignored
	}
	return []*kgo.Record{
		miskeyed, keyless, headers,
		of("  {\n\t\"user_id\" : USER , \"sms\" : { \"id\" : \"spaces-ID\" } }\r\n "),
		of(`{"user_id":"x","user_id":USER,"sms":7,"sms":{"id":[],"id":"doubled-ID"}}`),
		of(`{"user_id":USER,"extra":{"deep":[[[{"a":null}]]]},"sms":{"id":"extra-ID","unknown":[1],"cost":1e400}}`),
		of(`{"us\u0065r_id":USER,"sms":{"\u0069d":"escaped-ID","text":"\ud800"}}`),
		of(`{"user_id":USER,"sms":{"id":` + strings.Repeat("9", 40) + `,"text":null,"clicked":"no"}}`),
	}
}

// wrongHeaders returns records of delay topics with headers that smshooks never writes, and the fate of each: the
// reason of the dead letter, or "" for a delivery.
func wrongHeaders(topics harness.Topics, user int64) (records []*kgo.Record, reasons []string) {
	add := func(topic, reason string, headers ...string) {
		n := int64(len(records))
		r := harness.Event(topic, user, harness.DLRValue(user, 900_000+n))
		for i := 0; i+1 < len(headers); i += 2 {
			r.Headers = append(r.Headers, kgo.RecordHeader{Key: headers[i], Value: []byte(headers[i+1])})
		}
		records, reasons = append(records, r), append(reasons, reason)
	}
	for _, topic := range []string{harness.Retry(topics.DLR, "1s"), harness.Overflow(topics.DLR, "1s")} {
		id := topic + "/own/"
		add(topic, "")
		add(topic, "", "smshooks-id", id+"due", "smshooks-due", "soon")
		add(topic, "", "smshooks-id", id+"no-due", "smshooks-attempts", "1")
		add(topic, "", "smshooks-id", id+"past", "smshooks-due", "0001-01-01T00:00:00Z", "smshooks-attempts", "1")
		add(topic, "", "smshooks-id", id+"attempts", "smshooks-attempts", "two")
		add(topic, "", "smshooks-id", id+"negative", "smshooks-attempts", "-5")
		add(topic, "", "smshooks-id", id+"overflow", "smshooks-attempts", "99999999999999999999")
		add(topic, "attempts_exhausted", "smshooks-id", id+"largest", "smshooks-attempts", "9223372036854775807")
		add(topic, "attempts_exhausted", "smshooks-id", id+"many", "smshooks-attempts", "3")
		add(topic, "window_expired", "smshooks-id", id+"old", "smshooks-event-time", "1999-12-31T23:59:59.999Z")
		add(topic, "", "smshooks-id", id+"time", "smshooks-event-time", "yesterday")
		add(topic, "", "smshooks-id", id+"far", "smshooks-event-time", "9999-12-31T23:59:59-23:59")
		add(topic, "", "smshooks-id", id+"kind", "smshooks-kind", "inbound")
		add(topic, "", "smshooks-id", id+"error", "smshooks-error", "\xff\x00\r\n")
		add(topic, "", "smshooks-id", id+"twice", "smshooks-attempts", "7", "smshooks-attempts", "1")
		add(topic, "", "smshooks-id", id+"large", "x", strings.Repeat("x", 50_000))
		add(topic, "", "smshooks-id", "")
		// it is not valid in a header line, so the attempts fail
		add(topic, "attempts_exhausted", "smshooks-id", id+"x\r\nX-Evil: 1", "smshooks-attempts", "2")
	}
	return records, reasons
}

// settingsPoison returns unreadable records of the config topic, for a key that already has valid settings.
func settingsPoison(topic string, user int64) []*kgo.Record {
	key := strconv.FormatInt(user, 10)
	var all []*kgo.Record
	for _, value := range []string{
		"", "x", "null", "[]", "{}", `{"user_id":` + key, `{"user_id":"` + key + `","dlr_url":null}`, `{"user_id":` + key + `1,"dlr_url":null}`,
		`{"user_id":` + key + `,"dlr_url":7}`, `{"user_id":` + key + `,"dlr_url":["http://x"]}`, "{\"user_id\":" + key + ",\"dlr_url\":\"\xff\"}",
		`{"user_id":` + key + `,"auth":{"user":"x"}}`, `{"user_id":` + key + `,"auth":7}`, `{"user_id":0}`, `{"user_id":-1}`,
	} {
		all = append(all, &kgo.Record{Topic: topic, Partition: harness.ByKey, Key: []byte(key), Value: []byte(value)})
	}
	for _, other := range []string{"", "x", "0", "-1", "01", "9223372036854775808", "\xff"} {
		all = append(all, &kgo.Record{Topic: topic, Partition: harness.ByKey, Key: []byte(other), Value: []byte(`{"user_id":` + key + `,"dlr_url":null}`)})
	}
	return all // the broker refuses a record without a key, because the topic is compacted
}

// keysPoison returns unreadable records of the keys topic, for the hash of a valid key.
func keysPoison(topic, hash string) []*kgo.Record {
	var all []*kgo.Record
	for _, value := range []string{"", "x", "null", "[]", "{}", `{"user_id":"1"}`, `{"user_id":0}`, `{"user_id":1.5}`, `{"user_id":1`, "\xff"} {
		all = append(all, &kgo.Record{Topic: topic, Partition: harness.ByKey, Key: []byte(hash), Value: []byte(value)})
	}
	for _, other := range []string{"", "x", strings.ToUpper(hash), hash[:63], hash + "0", "\xff"} {
		all = append(all, &kgo.Record{Topic: topic, Partition: harness.ByKey, Key: []byte(other), Value: []byte(`{"user_id":2,"name":"x"}`)})
	}
	return all
}

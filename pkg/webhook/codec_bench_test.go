package webhook

import (
	"bytes"
	"encoding/json"
	"net/url"
	"os"
	"testing"
)

// BenchmarkCodec compares decoding a record and encoding its body with encoding/json. The latter does less: it cannot
// tell an absent key from null.
func BenchmarkCodec(b *testing.B) {
	value, err := os.ReadFile("testdata/dlr.record.json")
	if err != nil {
		b.Fatal(err)
	}
	value = bytes.TrimSpace(value)
	b.Run("own", func(b *testing.B) {
		b.ReportAllocs()
		var m Message
		buf := make([]byte, 0, 8<<10)
		for b.Loop() {
			if err := Decode(DLR, value, &m); err != nil {
				b.Fatal(err)
			}
			buf = m.AppendBody(buf[:0], value)
		}
	})
	b.Run("encoding_json", func(b *testing.B) {
		b.ReportAllocs()
		type sms struct {
			ID               json.RawMessage `json:"id"`
			Created          json.RawMessage `json:"created"`
			Updated          json.RawMessage `json:"updated"`
			From             json.RawMessage `json:"from"`
			To               json.RawMessage `json:"to"`
			VerifyLocal      json.RawMessage `json:"verify_local"`
			ShortenURL       json.RawMessage `json:"shorten_url"`
			ListID           json.RawMessage `json:"list_id"`
			Reference        json.RawMessage `json:"reference"`
			Transactional    json.RawMessage `json:"transactional"`
			PreferredRouteID json.RawMessage `json:"preferred_route_id"`
			CampaignID       json.RawMessage `json:"campaign_id"`
			DelayTime        json.RawMessage `json:"delay_time"`
			CountryID        json.RawMessage `json:"country_id"`
			CountryName      json.RawMessage `json:"country_name"`
			CountryISO       json.RawMessage `json:"country_iso"`
			Clicked          json.RawMessage `json:"clicked"`
			Cost             json.RawMessage `json:"cost"`
			Parts            json.RawMessage `json:"parts"`
			OriginalURL      json.RawMessage `json:"original_url"`
			ShortenedURL     json.RawMessage `json:"shortened_url"`
			Text             json.RawMessage `json:"text"`
			Status           json.RawMessage `json:"status"`
			DLRStatus        json.RawMessage `json:"dlr_status"`
		}
		var buf bytes.Buffer
		for b.Loop() {
			var r struct {
				UserID int64 `json:"user_id"`
				SMS    sms   `json:"sms"`
			}
			if err := json.Unmarshal(value, &r); err != nil {
				b.Fatal(err)
			}
			buf.Reset()
			enc := json.NewEncoder(&buf)
			enc.SetEscapeHTML(false)
			if err := enc.Encode(&r.SMS); err != nil {
				b.Fatal(err)
			}
			_ = "sms=" + url.QueryEscape(buf.String())
		}
	})
}

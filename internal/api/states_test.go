package api

import (
	"testing"
	"time"

	"github.com/smshooks/smshooks/internal/endpoints"
	"github.com/smshooks/smshooks/internal/settings"
	"github.com/smshooks/smshooks/pkg/webhook"
)

func TestEndpoints(t *testing.T) {
	s := newServer(t, Options{})
	ask := func() string {
		w := s.do(t, "GET", "/v1/user/endpoints", key42, "", "")
		want(t, w, 200, "")
		return w.Body.String()
	}
	const unset = `{"kind":"dlr","host":null,"state":"unset","since":null,"failure":null},` +
		`{"kind":"click","host":null,"state":"unset","since":null,"failure":null},` +
		`{"kind":"inbound","host":null,"state":"unset","since":null,"failure":null},` +
		`{"kind":"revoke_click","host":null,"state":"unset","since":null,"failure":null}`
	if got, want := ask(), `{"success":true,"data":[`+unset+`]}`; got != want {
		t.Errorf("nothing set: %s\nwant %s", got, want)
	}
	dlr, click, inbound, empty, on := "https://example.com:8443/in?token=x", "http://[2001:db8::1]/", "https://bücher.example/", "", "true"
	d := settings.Document{DLRURL: &dlr, ClickURL: &click, InboundURL: &inbound, RevokeClickURL: &empty}
	d.Paused[webhook.Inbound] = &on
	s.documents[42] = d
	failing := endpoints.State{Since: noon, Failure: "http 503"}
	s.states = map[int64][webhook.NumKinds]endpoints.State{
		42: {webhook.DLR: failing, webhook.Inbound: failing, webhook.RevokeClick: failing},
		43: {webhook.Click: failing},
	}
	const want = `{"success":true,"data":[` +
		`{"kind":"dlr","host":"example.com","state":"failing","since":"2026-02-27T12:00:00.123Z","failure":"http 503"},` +
		`{"kind":"click","host":"2001:db8::1","state":"ok","since":null,"failure":null},` +
		`{"kind":"inbound","host":"xn--bcher-kva.example","state":"paused","since":null,"failure":null},` +
		`{"kind":"revoke_click","host":null,"state":"unset","since":null,"failure":null}]}`
	if got := ask(); got != want {
		t.Errorf("%s\nwant %s", got, want)
	}
}

func TestEndpointsWithoutStore(t *testing.T) {
	for name, away := range map[string]func(*fakes){
		"states": func(f *fakes) { f.statesDown = true }, "settings": func(f *fakes) { f.storeDown = true },
	} {
		s := newServer(t, Options{})
		away(s.fakes)
		began := time.Now()
		w := s.do(t, "GET", "/v1/user/endpoints", key42, "", "")
		want(t, w, 503, `{"success":false,"data":[],"errors":["service: temporarily unavailable; try again"]}`)
		if took := time.Since(began); took > 10*time.Second {
			t.Errorf("%s: the answer took %v", name, took)
		}
	}
}

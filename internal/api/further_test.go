package api

import (
	"strings"
	"testing"

	"github.com/smshooks/smshooks/internal/settings"
	"github.com/smshooks/smshooks/pkg/webhook"
)

const furtherPath = "/v1/user/webhook-settings"

// furtherData returns the reply for a user who has set only these statuses.
func furtherData(statuses string) string {
	return `{"success":true,"data":{"dlr_failover_url":null,"click_failover_url":null,"inbound_failover_url":null,"revoke_click_failover_url":null,` +
		`"dlr_paused":false,"click_paused":false,"inbound_paused":false,"revoke_click_paused":false,"dlr_order":"all","dlr_statuses":` + statuses + `,"signing":false}}`
}

func TestFurther(t *testing.T) {
	const some = `["Failed","Delivered"]`
	mustList := "dlr_statuses: must be a list of Delivered, Pending, Failed, Rejected, Expired or Unknown"
	for _, tc := range []struct {
		name, contentType, body string
		status                  int
		want                    string // the statuses, or the errors
	}{
		{"nothing", formType, "", 200, some},
		{"unknown and read-only", formType, "signing=true&dlr_url=bad", 200, some},
		{"form", formType, "dlr_statuses=Expired,%20Unknown,Expired", 200, `["Expired","Unknown"]`},
		{"form, the last counts", formType, "dlr_statuses=Expired&dlr_statuses=Rejected", 200, `["Rejected"]`},
		{"multipart", "multipart/form-data; boundary=XX", "--XX\r\nContent-Disposition: form-data; name=\"dlr_statuses\"\r\n\r\nPending\r\n--XX--\r\n", 200, `["Pending"]`},
		{"JSON list", "application/json", `{"dlr_statuses":["Unknown","Delivered"]}`, 200, `["Unknown","Delivered"]`},
		{"JSON text", "application/json", `{"dlr_statuses":"Unknown,Delivered"}`, 200, `["Unknown","Delivered"]`},
		{"reset", formType, "dlr_statuses=", 200, "null"},
		{"JSON null", "application/json", `{"dlr_statuses":null,"dlr_paused":null,"dlr_order":null,"click_failover_url":null}`, 200, "null"},
		{"defaults", "application/json", `{"dlr_paused":false,"click_paused":"false","dlr_order":"all","click_failover_url":""}`, 200, some},
		{"empty list", "application/json", `{"dlr_statuses":[]}`, 422, mustList},
		{"only commas", formType, "dlr_statuses=,", 422, mustList},
		{"another spelling", formType, "dlr_statuses=delivered", 422, mustList},
		{"numbers", "application/json", `{"dlr_statuses":[1]}`, 422, "dlr_statuses: must be a list of strings, a string or null"},
		{"half of a pair", "application/json", `{"dlr_failover_url":"http://a/\ud800","dlr_paused":"\ud800","dlr_order":"\ud800","dlr_statuses":"\ud800"}`, 422,
			"dlr_failover_url: must be valid UTF-8|dlr_paused: must be true or false|dlr_order: must be valid UTF-8|" + mustList},
		{"boolean", "application/json", `{"dlr_statuses":true}`, 422, "dlr_statuses: must be a list of strings, a string or null"},
		{"all or nothing", "application/json",
			`{"dlr_order":"newest","inbound_paused":"yes","click_failover_url":"ftp://x","dlr_statuses":"Expired","revoke_click_paused":1,"dlr_failover_url":["x"]}`, 422,
			"dlr_failover_url: must be a string or null|click_failover_url: must be an absolute http or https URL|" +
				"inbound_paused: must be true or false|revoke_click_paused: must be true or false|dlr_order: must be all or latest"},
		{"no object", "application/json", `[]`, 422, "body: must be a JSON object"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			s := newServer(t, Options{})
			before, err := settings.NewStatuses([]string{"Failed", "Delivered"})
			if err != nil {
				t.Fatal(err)
			}
			url := "http://a"
			s.documents[42] = settings.Document{DLRURL: &url, Statuses: before}
			answer := furtherData(tc.want)
			if tc.status != 200 {
				answer = refusal(strings.Split(tc.want, "|")...)
			}
			want(t, s.do(t, "PATCH", furtherPath, key42, tc.contentType, tc.body), tc.status, answer)
			if tc.status != 200 {
				answer = furtherData(some)
			}
			want(t, s.do(t, "GET", furtherPath, key42, "", ""), 200, answer)
			want(t, s.do(t, "GET", furtherPath, key43, "", ""), 200, furtherData("null"))
			want(t, s.do(t, "GET", "/v1/user/get-webhook", key42, "", ""), 200, strings.Replace(unset, "null", `"http://a"`, 1))
		})
	}
}

func TestFailoverURLs(t *testing.T) {
	s := newServer(t, Options{})
	url := "http://a"
	s.documents[42] = settings.Document{DLRURL: &url}
	answer := strings.Replace(furtherData("null"), `"dlr_failover_url":null`, `"dlr_failover_url":"https://spare.example/x?y=1"`, 1)
	want(t, s.do(t, "PATCH", furtherPath, key42, formType, "dlr_failover_url=https://spare.example/x?y%3D1"), 200, answer)
	want(t, s.do(t, "PATCH", furtherPath, key42, "application/json", `{"dlr_failover_url":"http://u:p@x","inbound_failover_url":"https://x/#y"}`), 422,
		refusal("dlr_failover_url: must not contain credentials", "inbound_failover_url: must not contain a fragment"))
	want(t, s.do(t, "GET", furtherPath, key42, "", ""), 200, answer)
	d := s.documents[42]
	if f := d.Settings().Endpoints[webhook.DLR].Failover; f == nil || f.Address != "spare.example:443" {
		t.Errorf("the service calls %+v", f)
	}
	want(t, s.do(t, "PATCH", furtherPath, key42, "application/json", `{"dlr_failover_url":null}`), 200, furtherData("null"))
}

func TestPauseKinds(t *testing.T) {
	for _, tc := range []struct {
		name, contentType, body string
		paused                  [webhook.NumKinds]bool
	}{
		{"form", formType, "dlr_paused=true&click_paused=false&inbound_paused=true", [4]bool{true, false, true, true}},
		{"JSON", "application/json", `{"dlr_paused":true,"click_paused":"true","revoke_click_paused":false}`, [4]bool{true, true, false, false}},
		{"reset", "application/json", `{"revoke_click_paused":null}`, [4]bool{}},
		{"reset by an empty text", formType, "revoke_click_paused=", [4]bool{}},
		{"unchanged", formType, "", [4]bool{false, false, false, true}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			s := newServer(t, Options{})
			url, yes := "http://a", "true"
			d := settings.Document{DLRURL: &url, RevokeClickURL: &url}
			d.Paused[webhook.RevokeClick] = &yes
			s.documents[42] = d
			answer := furtherData("null")
			for _, kind := range webhook.Kinds() {
				if name := `"` + kind.String() + `_paused":`; tc.paused[kind] {
					answer = strings.Replace(answer, name+"false", name+"true", 1)
				}
			}
			want(t, s.do(t, "PATCH", furtherPath, key42, tc.contentType, tc.body), 200, answer)
			want(t, s.do(t, "GET", furtherPath, key42, "", ""), 200, answer)
			d = s.documents[42]
			for _, kind := range webhook.Kinds() {
				configured := kind == webhook.DLR || kind == webhook.RevokeClick
				if got := d.Settings().Paused(kind); got != (tc.paused[kind] && configured) {
					t.Errorf("%s: the service sees it as paused: %t", kind, got)
				}
			}
		})
	}
}

// Settings of another program are shown and can be reset, although the service does not act on them.
func TestFurtherOfAnotherProgram(t *testing.T) {
	s := newServer(t, Options{})
	url, yes, latest := "http://f", "true", settings.OrderLatest
	d := settings.Document{Order: &latest}
	d.FailoverURLs[webhook.Inbound], d.Paused[webhook.Click] = &url, &yes
	s.documents[42] = d
	want(t, s.do(t, "GET", furtherPath, key42, "", ""), 200, `{"success":true,"data":{"dlr_failover_url":null,"click_failover_url":null,`+
		`"inbound_failover_url":"http://f","revoke_click_failover_url":null,"dlr_paused":false,"click_paused":true,"inbound_paused":false,`+
		`"revoke_click_paused":false,"dlr_order":"latest","dlr_statuses":null,"signing":false}}`)
	want(t, s.do(t, "PATCH", furtherPath, key42, formType, "click_paused=false&dlr_order=&inbound_failover_url="), 200, furtherData("null"))
}

func TestOrder(t *testing.T) {
	s := newServer(t, Options{})
	latest := strings.Replace(furtherData("null"), `"dlr_order":"all"`, `"dlr_order":"latest"`, 1)
	for _, c := range []struct{ contentType, body, want string }{
		{formType, "dlr_order=latest", latest},
		{formType, "dlr_statuses=", latest},
		{formType, "dlr_order=all", furtherData("null")},
		{"application/json", `{"dlr_order":"latest"}`, latest},
		{"application/json", `{"dlr_order":null}`, furtherData("null")},
	} {
		want(t, s.do(t, "PATCH", furtherPath, key42, c.contentType, c.body), 200, c.want)
		want(t, s.do(t, "GET", furtherPath, key42, "", ""), 200, c.want)
	}
}

func TestFurtherUnavailable(t *testing.T) {
	s := newServer(t, Options{})
	s.storeDown = true
	want(t, s.do(t, "GET", furtherPath, key42, "", ""), 503, "")
	want(t, s.do(t, "PATCH", furtherPath, key42, formType, "dlr_statuses=Failed"), 503, "")
	want(t, s.do(t, "PATCH", furtherPath, "", formType, "dlr_statuses=Failed"), 401, "")
	want(t, s.do(t, "PUT", furtherPath, key42, formType, ""), 405, "")
}

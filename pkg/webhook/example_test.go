package webhook_test

import (
	"fmt"

	"github.com/smshooks/smshooks/pkg/webhook"
)

// Decode a record and encode the body of its request. Numbers keep their text; absent fields are null.
func ExampleDecode() {
	value := []byte(`{"user_id":42,"sms":{"id":9007199254740993,"from":"15551234567","to":1234,"message":"Tea & cake"}}`)
	var m webhook.Message
	if err := webhook.Decode(webhook.Inbound, value, &m); err != nil {
		fmt.Println(err)
		return
	}
	fmt.Println(m.UserID, m.ID(value))
	fmt.Printf("%s\n", m.AppendBody(nil, value))
	// Output: 42 9007199254740993
	// sms=%7B%22id%22%3A9007199254740993%2C%22from%22%3A%2215551234567%22%2C%22to%22%3A1234%2C%22message%22%3A%22Tea+%26+cake%22%2C%22received%22%3Anull%7D
}

func ExampleDecode_invalid() {
	var m webhook.Message
	fmt.Println(webhook.Decode(webhook.DLR, []byte(`{"user_id":42,"sms":{"id":null}}`), &m))
	// Output: invalid record: sms.id is neither a number nor a string
}

func ExampleDecodeRevocation() {
	var r webhook.Revocation
	if err := webhook.DecodeRevocation([]byte(`{"user_id":42,"api_sms_ids":100001}`), &r); err != nil {
		fmt.Println(err)
		return
	}
	fmt.Printf("%s\n%s\n", r.AppendBody(nil), r.AppendRecord(nil))
	// Output:
	// {"event":"clicks_revoked","count":1,"api_sms_ids":[100001],"campaign_sms_ids":[]}
	// {"user_id":42,"api_sms_ids":[100001],"campaign_sms_ids":[]}
}

// A wrong URL is reported in a form that completes "dlr_url: …".
func ExampleValidateURL() {
	fmt.Println(webhook.ValidateURL("https://example.com/dlr?token=x"))
	fmt.Println(webhook.ValidateURL("example.com/dlr"))
	// Output:
	// <nil>
	// must be an absolute http or https URL
}

// AppendMembers keeps the order of the members and the text of their values.
func ExampleAppendMembers() {
	members, err := webhook.AppendMembers(nil, []byte(`{"user_id": 42, "id": 9007199254740993}`))
	if err != nil {
		fmt.Println(err)
		return
	}
	for _, m := range members {
		fmt.Printf("%s = %s\n", m.Name, m.Value)
	}
	// Output:
	// user_id = 42
	// id = 9007199254740993
}

func ExampleHTTPFailure() {
	for _, f := range []webhook.Failure{"", webhook.HTTPFailure(503), webhook.Timeout, webhook.DNS} {
		fmt.Printf("%q is %v\n", f, f.Result())
	}
	// Output:
	// "" is ok
	// "http 503" is failed
	// "timeout" is timeout
	// "dns" is error
}

func ExampleNewSettings() {
	s := webhook.NewSettings(42, [webhook.NumKinds]string{webhook.DLR: "https://example.com/dlr"}, "myuser:mypass")
	fmt.Println(s.Endpoints[webhook.DLR].Address, s.Endpoints[webhook.DLR].Authorization)
	fmt.Println(s.Endpoints[webhook.Click] == nil)
	// Output:
	// example.com:443 Basic bXl1c2VyOm15cGFzcw==
	// true
}

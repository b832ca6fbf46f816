package settings

import (
	"fmt"
	"testing"
)

func TestPauses(t *testing.T) {
	p := pauses{}
	for _, c := range []struct {
		document string // "" = removed
		want     string
	}{
		{`{"user_id":42}`, "[]"},
		{`{"user_id":42,"dlr_paused":true,"click_paused":true}`, "[]"},
		{`{"user_id":42,"dlr_paused":true}`, "[click]"},
		{`{"user_id":42,"dlr_paused":true,"inbound_paused":true}`, "[]"},
		{`{"user_id":42,"dlr_paused":false}`, "[dlr inbound]"},
		{`{"user_id":42,"revoke_click_paused":true}`, "[]"},
		{"", "[revoke_click]"},
		{"", "[]"},
	} {
		change := &change{userID: 42, removed: c.document == ""}
		if !change.removed {
			var err error
			if change.document, err = parseDocument(42, []byte(c.document), nil); err != nil {
				t.Fatal(err)
			}
		}
		if got := fmt.Sprint(p.see(change)); got != c.want {
			t.Errorf("%s: %s resumed, want %s", c.document, got, c.want)
		}
	}
	if len(p) != 0 {
		t.Errorf("users who have paused nothing are remembered: %v", p)
	}
}

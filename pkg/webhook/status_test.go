package webhook

import (
	"strings"
	"testing"
)

func TestStatuses(t *testing.T) {
	for _, bad := range [][]string{nil, {""}, {"delivered"}, {"Delivered", "x"}} {
		if _, err := ParseStatuses(bad); err == nil || !strings.HasPrefix(err.Error(), "must ") {
			t.Errorf("%q: %v", bad, err)
		}
	}
	set, err := ParseStatuses([]string{"Failed", "Delivered"})
	if err != nil {
		t.Fatal(err)
	}
	for value, in := range map[string]bool{
		`"Delivered"`: true, `"Failed"`: true, `"Deliv\u0065red"`: true, `"delivered"`: false, `"Pending"`: false, `null`: false,
		`"Delivered "`: false, `1`: false, `""`: false, `"` + strings.Repeat("x", 1000) + `"`: false,
	} {
		record := []byte(`{"user_id":1,"sms":{"id":1,"dlr_status":` + value + `}}`)
		var m Message
		if err := Decode(DLR, record, &m); err != nil {
			t.Fatal(err)
		}
		if m.HasStatus(record, set) != in || !m.HasStatus(record, 0) {
			t.Errorf("%s: in the set %v, want %v", value, !in, in)
		}
	}
	record := []byte(`{"user_id":1,"sms":{"id":1}}`)
	var m Message
	if err := Decode(DLR, record, &m); err != nil || m.HasStatus(record, set) {
		t.Errorf("an absent status is in the set, %v", err)
	}
}

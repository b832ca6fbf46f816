package app

import (
	"slices"
	"testing"

	"github.com/smshooks/smshooks/internal/settings"
	"github.com/smshooks/smshooks/pkg/webhook"
)

// TestUsersOn checks that a host is recognised however it is written, and that URLs without a host are on none.
func TestUsersOn(t *testing.T) {
	users := map[int64]settings.Overview{}
	for userID, url := range []string{"javascript:alert(1)", "https://Hooks.Example:8443/x", "http://[2001:DB8::1]:81/", "http://192.0.2.1/",
		"http://bücher.example/"} {
		users[int64(userID)+1] = settings.Overview{URLs: [webhook.NumKinds]string{webhook.DLR: url}}
	}
	kinds := webhook.Kinds()
	for text, user := range map[string]int64{
		"hooks.example": 2, "HOOKS.example.": 2, "2001:db8::1": 3, "[2001:db8:0::1]": 3, "192.0.2.1": 4, "bücher.example": 5,
		"xn--bcher-kva.example": 5, "example": 0, "::1": 0, "hooks.example:8443": -1, "192.0.2.1:80": -1, "[::1]:80": -1, "": -1, "a b": -1,
		"http://192.0.2.1/": -1, "u@192.0.2.1": -1,
	} {
		host, ok := ParseHost(text)
		got := usersOn(host, users, kinds[:])
		if ok != (user >= 0) || len(got) != min(1, max(0, int(user))) || user > 0 && !slices.Equal(got[user], []string{"dlr"}) {
			t.Errorf("%q: host %q (%v), users %v, want %d", text, host, ok, got, user)
		}
	}
}

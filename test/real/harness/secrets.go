package harness

import (
	"encoding/base64"
	"net/url"
	"slices"
	"strings"
	"sync"
	"testing"
)

// secrets are texts of this process's tests that the program must never show: credentials of users' settings and API
// keys. They are kept for the process, like the shared servers, since any instance may hear of any of them.
var secrets struct {
	mu  sync.Mutex
	all []string
}

// Secret has every log and every figure that instances show from now on searched for a text, in its usual encodings too.
// Texts of less than eight characters are left out: they may occur by chance.
func Secret(text string) {
	if len(text) < 8 {
		return
	}
	secrets.mu.Lock()
	defer secrets.mu.Unlock()
	for _, form := range Encodings(text) {
		if !slices.Contains(secrets.all, form) {
			secrets.all = append(secrets.all, form)
		}
	}
}

// Encodings gives a text as it may occur in logs, headers, forms and JSON.
func Encodings(text string) []string {
	forms := []string{text}
	for _, form := range []string{
		base64.StdEncoding.EncodeToString([]byte(text)), base64.RawURLEncoding.EncodeToString([]byte(text)), url.QueryEscape(text), url.PathEscape(text),
	} {
		if !slices.Contains(forms, form) {
			forms = append(forms, form)
		}
	}
	return forms
}

// Leaks names the secrets that a text shows, with what stands around them.
func Leaks(text string) (found []string) {
	secrets.mu.Lock()
	defer secrets.mu.Unlock()
	for _, s := range secrets.all {
		if at := strings.Index(text, s); at >= 0 {
			found = append(found, s+" in …"+text[max(0, at-100):min(len(text), at+len(s)+40)]+"…")
		}
	}
	return found
}

// noLeaks fails the test if what an instance showed has a secret in it.
func noLeaks(t testing.TB, what, text string) {
	t.Helper()
	for _, leak := range Leaks(text) {
		t.Errorf("%s shows a secret: %s", what, leak)
	}
}

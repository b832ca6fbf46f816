package harness

import (
	"encoding/base64"
	"net/url"
	"slices"
	"strings"
	"sync"
	"testing"
)

// secrets holds texts that the program must never show: API keys and credentials from users' settings. They are kept
// for the whole process, like the shared servers, since any instance may read any of them.
var secrets struct {
	mu  sync.Mutex
	all []string
}

// Secret makes the harness search all later logs and metrics of instances for a text, also in its usual encodings. It
// ignores texts of fewer than eight characters, which may occur by chance.
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

// Encodings returns a text in the encodings of logs, headers, forms and JSON.
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

// Leaks returns the secrets that a text contains, with some context.
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

// noLeaks fails the test if the output of an instance contains a secret.
func noLeaks(t testing.TB, what, text string) {
	t.Helper()
	for _, leak := range Leaks(text) {
		t.Errorf("%s shows a secret: %s", what, leak)
	}
}

package sender

import (
	"encoding/base64"
	"html"
	"strconv"
	"strings"

	"github.com/smshooks/smshooks/pkg/webhook"
)

const (
	mask = "***"
	// leastCut is how many bytes of a secret at the end of a reply are taken for its beginning.
	leastCut = 4
	// leastPassword is the shortest password that is masked without its user: a shorter one may be any text.
	leastPassword = 6
)

// maskCredentials masks the credentials in a reply, as they are sent and decoded, also if they are escaped for JSON,
// HTML or a URL, or if the reply ends within them: error pages show the headers of the request.
func maskCredentials(reply string, e *webhook.Endpoint) string {
	_, encoded, ok := strings.Cut(e.Authorization, " ")
	if !ok || encoded == "" || reply == "" {
		return reply
	}
	secrets := []string{encoded}
	plain, _ := base64.StdEncoding.DecodeString(encoded)
	if len(plain) >= len(mask) { // the text must not grow
		secrets = append(secrets, string(plain))
	}
	if _, password, _ := strings.Cut(string(plain), ":"); len(password) >= leastPassword {
		secrets = append(secrets, password)
	}
	var b strings.Builder
	for len(reply) > 0 {
		n := 0
		for _, secret := range secrets {
			n = max(n, matchEscaped(reply, secret))
		}
		if n > 0 {
			b.WriteString(mask)
		} else {
			n = 1
			b.WriteByte(reply[0])
		}
		reply = reply[n:]
	}
	return b.String()
}

// matchEscaped returns how many bytes of text are secret, or the beginning of secret if text ends there; 0 if text does
// not begin with it.
func matchEscaped(text, secret string) (n int) {
	for i := range len(secret) {
		if n == len(text) {
			if i < leastCut {
				return 0
			}
			return n
		}
		size := escapedAs(text[n:], secret[i])
		if size == 0 {
			return 0
		}
		n += size
	}
	return n
}

// escapedAs returns the length of the character c at the start of text, in any usual form; 0 if that is another one.
func escapedAs(text string, c byte) int {
	if text[0] == c {
		return 1
	}
	switch text[0] {
	case '\\':
		if len(text) > 1 && text[1] == c {
			return 2
		}
		if len(text) >= 6 && text[1] == 'u' && isHex(text[2:6], c) {
			return 6
		}
	case '%':
		if len(text) >= 3 && isHex(text[1:3], c) {
			return 3
		}
	case '&':
		end := 1 + strings.IndexByte(text[:min(len(text), 10)], ';')
		if html.UnescapeString(text[:end]) == string(rune(c)) {
			return end
		}
	}
	return 0
}

func isHex(digits string, c byte) bool {
	n, err := strconv.ParseUint(digits, 16, 16)
	return err == nil && n == uint64(c)
}

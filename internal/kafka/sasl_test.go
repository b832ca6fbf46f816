package kafka

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/twmb/franz-go/pkg/kfake"
	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
	"go.uber.org/zap/zaptest/observer"
)

func TestSASLErrors(t *testing.T) {
	for name, c := range map[string]struct {
		config SASLConfig
		want   string
	}{
		"unknown":      {SASLConfig{Mechanism: "KERBEROS", Username: "u", Password: "hush"}, "kafka.sasl.mechanism"},
		"no mechanism": {SASLConfig{Username: "u", Password: "hush"}, "kafka.sasl.mechanism"},
		"no user":      {SASLConfig{Mechanism: "PLAIN", Password: "hush"}, "kafka.sasl.username"},
		"no token":     {SASLConfig{Mechanism: "OAUTHBEARER", OAuth: OAuthConfig{ClientSecret: "hush"}}, "kafka.sasl.oauth.token_url"},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := NewSASL(c.config)
			if err == nil || !strings.Contains(err.Error(), c.want) {
				t.Fatalf("got %v, want %q", err, c.want)
			}
			if strings.Contains(err.Error(), "hush") {
				t.Errorf("the password shows: %v", err)
			}
		})
	}
	if none, err := NewSASL(SASLConfig{}); none != nil || err != nil {
		t.Errorf("no mechanism: got %v, %v", none, err)
	}
}

func TestSASLPasswords(t *testing.T) {
	for _, mechanism := range []string{"PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512"} {
		t.Run(mechanism, func(t *testing.T) {
			cluster := newCluster(t, kfake.EnableSASL(), kfake.Superuser(mechanism, "ann", "right"))
			log, seen := observer.New(zapcore.DebugLevel)
			login := func(password string) error {
				sasl, err := NewSASL(SASLConfig{Mechanism: strings.ToLower(mechanism), Username: "ann", Password: password})
				if err != nil {
					t.Fatal(err)
				}
				return ping(t, Config{Brokers: cluster.ListenAddrs(), Log: zap.New(log), SASL: sasl})
			}
			if err := login("right"); err != nil {
				t.Errorf("right password: %v", err)
			}
			// kfake closes the connection on a wrong password; Kafka returns SASL_AUTHENTICATION_FAILED.
			if err := login("wrong-hush"); err == nil {
				t.Error("a wrong password works")
			}
			for _, entry := range seen.All() {
				if text := fmt.Sprint(entry.Message, entry.ContextMap()); strings.Contains(text, "hush") {
					t.Errorf("the password is logged: %s", text)
				}
			}
		})
	}
}

// initial returns what the client sends first: the token of OAUTHBEARER.
func initial(t *testing.T, c OAuthConfig) (string, error) {
	t.Helper()
	mechanism, err := NewSASL(SASLConfig{Mechanism: "oauthbearer", OAuth: c})
	if err != nil {
		t.Fatal(err)
	}
	_, first, err := mechanism.Authenticate(context.Background(), "broker:9092")
	return string(first), err
}

func TestOAuthTokenURL(t *testing.T) {
	asked := 0
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		asked++
		id, secret, _ := r.BasicAuth()
		if id != "hooks" || secret != "hush" || r.FormValue("grant_type") != "client_credentials" || r.FormValue("scope") != "kafka read" {
			w.Header().Set("Content-Type", "application/json")
			w.WriteHeader(http.StatusUnauthorized)
			fmt.Fprintf(w, `{"error":"invalid_client","error_description":"%s is wrong"}`, secret)
			return
		}
		w.Header().Set("Content-Type", "application/json")
		fmt.Fprint(w, `{"access_token":"abc.def","token_type":"bearer","expires_in":3600}`)
	}))
	defer server.Close()
	grant := OAuthConfig{TokenURL: server.URL, ClientID: "hooks", ClientSecret: "hush", Scope: "kafka read"}
	mechanism, err := NewSASL(SASLConfig{Mechanism: "OAUTHBEARER", OAuth: grant})
	if err != nil {
		t.Fatal(err)
	}
	for range 3 {
		if _, first, err := mechanism.Authenticate(context.Background(), ""); err != nil || !strings.Contains(string(first), "auth=Bearer abc.def\x01") {
			t.Fatalf("got %q, %v", first, err)
		}
	}
	if asked != 1 {
		t.Errorf("%d requests for a token that is valid for an hour", asked)
	}
	grant.ClientSecret = "wrong-hush"
	_, err = initial(t, grant)
	if err = Explain(err); err == nil || !strings.HasPrefix(err.Error(), "kafka.sasl.oauth.token_url: ") ||
		!strings.Contains(err.Error(), "invalid_client") || strings.Contains(err.Error(), "hush") {
		t.Errorf("a wrong secret: %v", err)
	}
	server.Close()
	if _, err = initial(t, grant); err == nil || strings.Contains(err.Error(), "hush") {
		t.Errorf("no token server: %v", err)
	}
}

func TestOAuthTokenFile(t *testing.T) {
	file := filepath.Join(t.TempDir(), "token")
	c := OAuthConfig{TokenFile: file}
	if _, err := initial(t, c); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("no file: %v", err)
	}
	for _, step := range []struct{ text, want string }{
		{"first\n", "auth=Bearer first\x01"}, {"second", "auth=Bearer second\x01"}, {"\n", ""}, {"two tokens", ""},
	} {
		if err := os.WriteFile(file, []byte(step.text), 0o600); err != nil {
			t.Fatal(err)
		}
		first, err := initial(t, c)
		if step.want == "" {
			if err = Explain(err); err == nil || !strings.HasPrefix(err.Error(), "kafka.sasl.oauth.token_file: ") || strings.Contains(err.Error(), "tokens (") {
				t.Errorf("%q: %v", step.text, err)
			}
		} else if err != nil || !strings.Contains(first, step.want) {
			t.Errorf("%q: got %q, %v", step.text, first, err)
		}
	}
}

// AWS's own chain finds the credentials; without any the error says what is missing.
func TestAWSCredentials(t *testing.T) {
	none := filepath.Join(t.TempDir(), "none")
	for name, value := range map[string]string{
		"AWS_EC2_METADATA_DISABLED": "true", "AWS_CONFIG_FILE": none, "AWS_SHARED_CREDENTIALS_FILE": none, "AWS_PROFILE": "",
		"AWS_ACCESS_KEY_ID": "", "AWS_SECRET_ACCESS_KEY": "", "AWS_SESSION_TOKEN": "", "AWS_WEB_IDENTITY_TOKEN_FILE": "",
		"AWS_CONTAINER_CREDENTIALS_RELATIVE_URI": "", "AWS_CONTAINER_CREDENTIALS_FULL_URI": "",
	} {
		t.Setenv(name, value)
	}
	first := func() (string, error) {
		mechanism, err := NewSASL(SASLConfig{Mechanism: "AWS_MSK_IAM"})
		if err != nil {
			t.Fatal(err)
		}
		_, first, err := mechanism.Authenticate(context.Background(), "b-1.hooks.kafka.eu-west-1.amazonaws.com:9098")
		return string(first), err
	}
	if _, err := first(); err == nil || !strings.HasPrefix(Explain(err).Error(), "kafka.sasl.mechanism: ") {
		t.Errorf("no credentials: %v", err)
	}
	t.Setenv("AWS_ACCESS_KEY_ID", "AKIDEXAMPLE")
	t.Setenv("AWS_SECRET_ACCESS_KEY", "hush")
	if text, err := first(); err != nil || !strings.Contains(text, "AKIDEXAMPLE") || !strings.Contains(text, "eu-west-1") || strings.Contains(text, "hush") {
		t.Errorf("environment: %q, %v", text, err)
	}
	t.Setenv("AWS_ACCESS_KEY_ID", "")
	t.Setenv("AWS_SECRET_ACCESS_KEY", "")
	if err := os.WriteFile(none, []byte("[default]\naws_access_key_id=AKIDFILE\naws_secret_access_key=hush\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if text, err := first(); err != nil || !strings.Contains(text, "AKIDFILE") {
		t.Errorf("shared file: %q, %v", text, err)
	}
}

package kafka

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

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
				t.Errorf("the error contains the password: %v", err)
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

// initial returns the first message of the client: the OAUTHBEARER token.
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

// TestOAuthHangingServer checks that a login ends with its context while the token server does not reply.
func TestOAuthHangingServer(t *testing.T) {
	asked, release := make(chan bool, 10), make(chan bool)
	server := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) {
		asked <- true
		<-release
	}))
	defer server.Close()
	defer close(release)
	mechanism, err := NewSASL(SASLConfig{Mechanism: "OAUTHBEARER", OAuth: OAuthConfig{TokenURL: server.URL, ClientID: "hooks", ClientSecret: "hush"}})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	go func() {
		<-asked
		cancel()
	}()
	if _, _, err := mechanism.Authenticate(ctx, "broker:9092"); !errors.Is(err, context.Canceled) {
		t.Errorf("the login ends with %v", err)
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

// withoutAWS hides the AWS credentials of the machine from the test. It returns the path of the shared files, which do
// not exist.
func withoutAWS(t *testing.T) (shared string) {
	t.Helper()
	shared = filepath.Join(t.TempDir(), "none")
	for name, value := range map[string]string{
		"AWS_EC2_METADATA_DISABLED": "true", "AWS_CONFIG_FILE": shared, "AWS_SHARED_CREDENTIALS_FILE": shared, "AWS_PROFILE": "",
		"AWS_ACCESS_KEY_ID": "", "AWS_SECRET_ACCESS_KEY": "", "AWS_SESSION_TOKEN": "", "AWS_WEB_IDENTITY_TOKEN_FILE": "",
		"AWS_CONTAINER_CREDENTIALS_RELATIVE_URI": "", "AWS_CONTAINER_CREDENTIALS_FULL_URI": "",
		"AWS_REGION": "", "AWS_DEFAULT_REGION": "", "AWS_ENDPOINT_URL": "", "AWS_ENDPOINT_URL_STS": "",
	} {
		t.Setenv(name, value)
	}
	return shared
}

const mskBroker = "b-1.hooks.kafka.eu-west-1.amazonaws.com:9098"

// TestAWSCredentials checks that AWS's own chain finds the credentials, and that the error names what is missing
// without them.
func TestAWSCredentials(t *testing.T) {
	none := withoutAWS(t)
	first := func() (string, error) {
		mechanism, err := NewSASL(SASLConfig{Mechanism: "AWS_MSK_IAM"})
		if err != nil {
			t.Fatal(err)
		}
		_, first, err := mechanism.Authenticate(context.Background(), mskBroker)
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

// TestMSKPayload compares the login with that of AWS's own library, aws-msk-iam-auth 2.3.4, for the same credentials
// and the same time. The test on the real floor calls the library itself.
func TestMSKPayload(t *testing.T) {
	withoutAWS(t)
	lines, err := os.ReadFile(cmp.Or(os.Getenv("SMSHOOKS_TEST_MSK_PAYLOADS"), "testdata/msk-payloads.jsonl"))
	if err != nil {
		t.Fatal(err)
	}
	compared := 0
	for line := range bytes.Lines(lines) {
		var want struct {
			Host, Key, Secret, Token string
			Payload                  map[string]string
		}
		if err := json.Unmarshal(line, &want); err != nil {
			t.Fatal(err)
		}
		at, err := time.Parse("20060102T150405Z", want.Payload["x-amz-date"])
		if err != nil {
			t.Fatal(err)
		}
		t.Setenv("AWS_ACCESS_KEY_ID", want.Key)
		t.Setenv("AWS_SECRET_ACCESS_KEY", want.Secret)
		t.Setenv("AWS_SESSION_TOKEN", want.Token)
		synctest.Test(t, func(t *testing.T) {
			time.Sleep(time.Until(at))
			mechanism, err := NewSASL(SASLConfig{Mechanism: "AWS_MSK_IAM"})
			if err != nil {
				t.Fatal(err)
			}
			_, first, err := mechanism.Authenticate(t.Context(), want.Host+":9098")
			if err != nil {
				t.Fatal(err)
			}
			var got map[string]string
			if err := json.Unmarshal(first, &got); err != nil {
				t.Fatal(err)
			}
			if got["user-agent"] != "smshooks" {
				t.Errorf("user agent %q", got["user-agent"])
			}
			want.Payload["user-agent"] = got["user-agent"] // each client sends its own name
			if !maps.Equal(got, want.Payload) {
				t.Errorf("%s: got\n%v\nAWS's library sends\n%v", want.Host, got, want.Payload)
			}
		})
		compared++
	}
	if compared == 0 {
		t.Fatal("no payload was compared")
	}
}

// tokenService is the part of AWS STS that turns a web identity into credentials, with numbered ids: ASIA1, ASIA2.
func tokenService(t *testing.T, life func() time.Duration) *httptest.Server {
	t.Helper()
	issued := 0
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "text/xml")
		token := r.FormValue("WebIdentityToken")
		if r.FormValue("Action") != "AssumeRoleWithWebIdentity" || r.FormValue("RoleArn") != "arn:aws:iam::1:role/hooks" ||
			!strings.HasPrefix(token, "identity") {
			w.WriteHeader(http.StatusForbidden)
			fmt.Fprintf(w, "<ErrorResponse><Error><Type>Sender</Type><Code>AccessDenied</Code><Message>not with %s</Message></Error></ErrorResponse>", token)
			return
		}
		issued++
		fmt.Fprintf(w, `<AssumeRoleWithWebIdentityResponse><AssumeRoleWithWebIdentityResult><Credentials>
			<AccessKeyId>ASIA%d</AccessKeyId><SecretAccessKey>hush</SecretAccessKey><SessionToken>session of %s</SessionToken>
			<Expiration>%s</Expiration></Credentials></AssumeRoleWithWebIdentityResult></AssumeRoleWithWebIdentityResponse>`,
			issued, token, time.Now().Add(life()).UTC().Format(time.RFC3339))
	}))
	t.Cleanup(server.Close)
	return server
}

// TestAWSWebIdentity checks a pod's web identity: the token file is read again when the credentials have expired, and
// its content is never shown.
func TestAWSWebIdentity(t *testing.T) {
	withoutAWS(t)
	file := filepath.Join(t.TempDir(), "token")
	write := func(token string) {
		if err := os.WriteFile(file, []byte(token), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	var life time.Duration
	server := tokenService(t, func() time.Duration { return life })
	t.Setenv("AWS_ENDPOINT_URL_STS", server.URL)
	t.Setenv("AWS_REGION", "eu-west-1")
	t.Setenv("AWS_ROLE_ARN", "arn:aws:iam::1:role/hooks")
	t.Setenv("AWS_WEB_IDENTITY_TOKEN_FILE", file)
	mechanism, err := NewSASL(SASLConfig{Mechanism: "AWS_MSK_IAM"})
	if err != nil {
		t.Fatal(err)
	}
	for _, step := range []struct {
		token     string
		life      time.Duration
		key, with string
	}{
		{"identity-1", 0, "ASIA1/", "session of identity-1"},
		{"identity-2", time.Hour, "ASIA2/", "session of identity-2"}, // the first credentials have expired
		{"identity-3", time.Hour, "ASIA2/", "session of identity-2"}, // the second have not
	} {
		life = step.life
		write(step.token)
		_, first, err := mechanism.Authenticate(context.Background(), mskBroker)
		if err != nil {
			t.Fatal(err)
		}
		var got map[string]string
		if err := json.Unmarshal(first, &got); err != nil {
			t.Fatal(err)
		}
		if !strings.HasPrefix(got["x-amz-credential"], step.key) || got["x-amz-security-token"] != step.with {
			t.Errorf("with token %s: got %v", step.token, got)
		}
	}
	write("stranger-hush")
	stranger, err := NewSASL(SASLConfig{Mechanism: "AWS_MSK_IAM"})
	if err != nil {
		t.Fatal(err)
	}
	_, _, err = stranger.Authenticate(context.Background(), mskBroker)
	if err = Explain(err); err == nil || !strings.HasPrefix(err.Error(), "kafka.sasl.mechanism: ") ||
		!strings.Contains(err.Error(), "AccessDenied") || strings.Contains(err.Error(), "hush") {
		t.Errorf("a refused identity: %v", err)
	}
}

package kafka

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net/http"
	"os"
	"strings"
	"sync"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	awsconfig "github.com/aws/aws-sdk-go-v2/config"
	"github.com/twmb/franz-go/pkg/sasl"
	awssasl "github.com/twmb/franz-go/pkg/sasl/aws"
	"github.com/twmb/franz-go/pkg/sasl/oauth"
	"github.com/twmb/franz-go/pkg/sasl/plain"
	"github.com/twmb/franz-go/pkg/sasl/scram"
	"golang.org/x/oauth2"
	"golang.org/x/oauth2/clientcredentials"
)

// tokenTimeout bounds one request for a token or for credentials.
const tokenTimeout = 8 * time.Second

// SASLConfig configures the login. Without a Mechanism there is none.
type SASLConfig struct {
	// Mechanism is PLAIN, SCRAM-SHA-256, SCRAM-SHA-512, OAUTHBEARER or AWS_MSK_IAM, in any case.
	Mechanism          string
	Username, Password string // of PLAIN and SCRAM
	OAuth              OAuthConfig
}

// OAuthConfig is the source of the OAUTHBEARER token: TokenFile, or else TokenURL with the client credentials grant.
type OAuthConfig struct {
	TokenURL               string
	ClientID, ClientSecret string
	Scope                  string // scopes separated by spaces, "" = the server's default
	TokenFile              string // read again for each login
}

// NewSASL returns the mechanism that c describes, nil for none. Clients that share it share its token. An error names
// the setting that is wrong.
func NewSASL(c SASLConfig) (sasl.Mechanism, error) {
	name := strings.ToUpper(c.Mechanism)
	switch {
	case name == "" && c.Username == "" && c.Password == "":
		return nil, nil
	case name == "":
		return nil, errors.New("kafka.sasl.mechanism: must be set with a username or password " +
			"(PLAIN, SCRAM-SHA-256 or SCRAM-SHA-512)")
	case name == "OAUTHBEARER":
		return c.OAuth.mechanism()
	case name == "AWS_MSK_IAM":
		return awssasl.ManagedStreamingIAM(new(awsLogin).credentials), nil
	case c.Username == "":
		return nil, fmt.Errorf("kafka.sasl.username: must be set with mechanism %s", name)
	}
	switch name {
	case "PLAIN":
		return plain.Auth{User: c.Username, Pass: c.Password}.AsMechanism(), nil
	case "SCRAM-SHA-256":
		return scram.Auth{User: c.Username, Pass: c.Password}.AsSha256Mechanism(), nil
	case "SCRAM-SHA-512":
		return scram.Auth{User: c.Username, Pass: c.Password}.AsSha512Mechanism(), nil
	}
	return nil, fmt.Errorf("kafka.sasl.mechanism: %q is unknown (PLAIN, SCRAM-SHA-256, SCRAM-SHA-512, OAUTHBEARER "+
		"or AWS_MSK_IAM)", c.Mechanism)
}

func (c OAuthConfig) mechanism() (sasl.Mechanism, error) {
	if c.TokenFile != "" {
		return oauth.Oauth(func(context.Context) (oauth.Auth, error) { return c.read() }), nil
	}
	if c.TokenURL == "" {
		return nil, errors.New("kafka.sasl.oauth.token_url: must be set with mechanism OAUTHBEARER, " +
			"or kafka.sasl.oauth.token_file")
	}
	grant := clientcredentials.Config{
		TokenURL: c.TokenURL, ClientID: c.ClientID, ClientSecret: c.ClientSecret, Scopes: strings.Fields(c.Scope),
	}
	// The source keeps a token until shortly before it expires. Its context outlives each login.
	ctx := context.WithValue(context.Background(), oauth2.HTTPClient, &http.Client{Timeout: tokenTimeout})
	source := grant.TokenSource(ctx)
	return oauth.Oauth(func(ctx context.Context) (oauth.Auth, error) {
		token, err := await(ctx, source.Token)
		if err != nil {
			return oauth.Auth{}, &loginError{"kafka.sasl.oauth.token_url", "check the URL, kafka.sasl.oauth.client_id, " +
				"client_secret and scope", tokenError(err)}
		}
		return oauth.Auth{Token: token.AccessToken}, nil
	}), nil
}

// await returns the result of f, or ctx's error if ctx ends first. f may outlast the call.
func await[T any](ctx context.Context, f func() (T, error)) (T, error) {
	type result struct {
		value T
		err   error
	}
	results := make(chan result, 1)
	go func() {
		value, err := f()
		results <- result{value, err}
	}()
	select {
	case r := <-results:
		return r.value, r.err
	case <-ctx.Done():
		var none T
		return none, ctx.Err()
	}
}

// read returns the token of the file.
func (c OAuthConfig) read() (oauth.Auth, error) {
	const setting = "kafka.sasl.oauth.token_file"
	text, err := os.ReadFile(c.TokenFile)
	if err != nil {
		return oauth.Auth{}, &loginError{setting, "check the file and its rights", err}
	}
	token := bytes.TrimSpace(text)
	if len(token) == 0 || bytes.ContainsAny(token, " \t\r\n\x01") {
		return oauth.Auth{}, &loginError{setting, "write one token and nothing else into the file",
			fmt.Errorf("%s: contains no token", c.TokenFile)}
	}
	return oauth.Auth{Token: string(token)}, nil
}

// tokenError returns err without the body of the token server's reply, which may repeat a secret.
func tokenError(err error) error {
	reply, ok := errors.AsType[*oauth2.RetrieveError](err)
	switch {
	case !ok:
		return err
	case reply.ErrorCode != "":
		return fmt.Errorf("the token server refuses the request: %q", reply.ErrorCode)
	case reply.Response != nil:
		return fmt.Errorf("the token server replied with status %d", reply.Response.StatusCode)
	}
	return errors.New("the token server replied without a token")
}

// awsLogin finds AWS credentials like AWS's own clients, and keeps them until they expire: from the environment,
// the shared files, a web identity, a container or an instance.
type awsLogin struct {
	mu     sync.Mutex
	cached aws.CredentialsProvider
}

func (l *awsLogin) credentials(ctx context.Context) (awssasl.Auth, error) {
	ctx, cancel := context.WithTimeout(ctx, tokenTimeout)
	defer cancel()
	provider, err := l.provider(ctx)
	if err != nil {
		return awssasl.Auth{}, awsError(err)
	}
	c, err := provider.Retrieve(ctx)
	if err != nil {
		return awssasl.Auth{}, awsError(err)
	}
	return awssasl.Auth{AccessKey: c.AccessKeyID, SecretKey: c.SecretAccessKey, SessionToken: c.SessionToken,
		UserAgent: "smshooks"}, nil
}

// provider returns the cache of the credentials, which is built when it is first needed.
func (l *awsLogin) provider(ctx context.Context) (aws.CredentialsProvider, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.cached == nil {
		cfg, err := awsconfig.LoadDefaultConfig(ctx)
		if err != nil {
			return nil, err
		}
		l.cached = cfg.Credentials
	}
	return l.cached, nil
}

// awsError returns err as a login error, without the text of AWS's reply, which may repeat a secret.
func awsError(err error) error {
	var reply interface {
		error
		ErrorCode() string
	}
	if errors.As(err, &reply) {
		err = fmt.Errorf("AWS refuses the request for credentials: %q", reply.ErrorCode())
	}
	return &loginError{"kafka.sasl.mechanism", "AWS_MSK_IAM needs credentials in the environment, in the shared files, " +
		"or of a web identity", err}
}

// loginError is a login that could not begin, because there is no token or there are no credentials.
type loginError struct {
	setting, advice string
	err             error
}

func (e *loginError) Error() string { return "no login: " + e.err.Error() }

func (e *loginError) Unwrap() error { return e.err }

package harness

import (
	"crypto/tls"
	"os"
	"strings"
	"testing"

	"github.com/moby/moby/api/types/container"
	"github.com/testcontainers/testcontainers-go"
)

// HostForContainers is the name under which a container of LoginKafka reaches this machine.
const HostForContainers = "host.docker.internal"

// LoginBroker is a broker with the listeners of a managed service. The test itself, at Addr, needs no login.
type LoginBroker struct {
	*Broker
	SASLAddr string // SASL_SSL: PLAIN, SCRAM and OAUTHBEARER
	CertAddr string // SSL that requires a client certificate
}

// LoginOptions configures what a LoginBroker trusts. The files are PEM.
type LoginOptions struct {
	CAFile, CertFile, KeyFile string
	User, Password            string // of PLAIN
	JWKS                      string // URL of the keys that sign tokens, as the broker reaches it
	Audience, Issuer          string // of tokens
}

// LoginKafka starts a broker for the test that checks logins.
func LoginKafka(t testing.TB, o LoginOptions) *LoginBroker {
	t.Helper()
	s := kafkaSpec()
	s.ports = []string{"9092", "9094", "9095"}
	text := func(file string) string {
		data, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		return strings.ReplaceAll(strings.TrimSpace(string(data)), "\n", `\n`) // escaped for a properties file
	}
	ca, chain, key := text(o.CAFile), text(o.CertFile), text(o.KeyFile)
	const oauth = "org.apache.kafka.common.security.oauthbearer."
	s.env = func(addrs []string) map[string]string {
		vars := kafkaEnv(addrs)
		vars["KAFKA_LISTENER_SECURITY_PROTOCOL_MAP"] += ",LOGIN:SASL_SSL,CERT:SSL"
		vars["KAFKA_LISTENERS"] += ",LOGIN://0.0.0.0:9094,CERT://0.0.0.0:9095"
		vars["KAFKA_ADVERTISED_LISTENERS"] += ",LOGIN://" + addrs[1] + ",CERT://" + addrs[2]
		for _, listener := range []string{"LOGIN", "CERT"} {
			at := "KAFKA_LISTENER_NAME_" + listener + "_SSL_"
			vars[at+"KEYSTORE_TYPE"], vars[at+"KEYSTORE_CERTIFICATE_CHAIN"], vars[at+"KEYSTORE_KEY"] = "PEM", chain, key
			vars[at+"TRUSTSTORE_TYPE"], vars[at+"TRUSTSTORE_CERTIFICATES"] = "PEM", ca
		}
		vars["KAFKA_LISTENER_NAME_CERT_SSL_CLIENT_AUTH"] = "required"
		at := "KAFKA_LISTENER_NAME_LOGIN_"
		vars[at+"SASL_ENABLED_MECHANISMS"] = "PLAIN,SCRAM-SHA-256,SCRAM-SHA-512,OAUTHBEARER"
		vars[at+"PLAIN_SASL_JAAS_CONFIG"] = `org.apache.kafka.common.security.plain.PlainLoginModule required user_` + o.User + `="` + o.Password + `";`
		for _, bits := range []string{"256", "512"} {
			vars[at+"SCRAM___SHA___"+bits+"_SASL_JAAS_CONFIG"] = "org.apache.kafka.common.security.scram.ScramLoginModule required;"
		}
		vars[at+"OAUTHBEARER_SASL_JAAS_CONFIG"] = oauth + "OAuthBearerLoginModule required;"
		vars[at+"OAUTHBEARER_SASL_SERVER_CALLBACK_HANDLER_CLASS"] = oauth + "OAuthBearerValidatorCallbackHandler"
		// The default of Kafka 4.1 checks no signature.
		vars[at+"SASL_OAUTHBEARER_JWT_VALIDATOR_CLASS"] = oauth + "BrokerJwtValidator"
		vars[at+"OAUTHBEARER_CONNECTIONS_MAX_REAUTH_MS"] = "3600000" // a connection lives as long as its token
		vars[at+"SASL_OAUTHBEARER_JWKS_ENDPOINT_URL"] = o.JWKS
		vars[at+"SASL_OAUTHBEARER_EXPECTED_AUDIENCE"] = o.Audience
		vars[at+"SASL_OAUTHBEARER_EXPECTED_ISSUER"] = o.Issuer
		vars["KAFKA_OPTS"] = "-Dorg.apache.kafka.sasl.oauthbearer.allowed.urls=" + o.JWKS
		return vars
	}
	s.more = append(s.more, testcontainers.WithHostConfigModifier(func(h *container.HostConfig) {
		h.ExtraHosts = append(h.ExtraHosts, HostForContainers+":host-gateway")
	}))
	srv := runOwn(t, s)
	for _, addr := range srv.addrs[1:] { // these listeners open after the first one
		Eventually(t, Patience, func() bool {
			conn, err := tls.Dial("tcp", addr, &tls.Config{InsecureSkipVerify: true}) //nolint:gosec // only whether it answers
			if err != nil {
				return false
			}
			return conn.Close() == nil
		}, "listener %s answers", addr)
	}
	return &LoginBroker{Broker: &Broker{Addr: srv.addr, srv: srv}, SASLAddr: srv.addrs[1], CertAddr: srv.addrs[2]}
}

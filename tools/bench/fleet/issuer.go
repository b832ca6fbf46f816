package fleet

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"fmt"
	"math/big"
	"sync"
	"time"
)

// issuer creates the certificates of the hosts when they are first needed. Like public ones, they are signed by an
// intermediate authority. All hosts share one key: creating 10,000 would take long.
type issuer struct {
	key          *ecdsa.PrivateKey
	intermediate *x509.Certificate
	made         sync.Map // *tls.Certificate by name
}

func newIssuer(authority tls.Certificate) (*issuer, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, fmt.Errorf("key of the hosts: %w", err)
	}
	root, err := x509.ParseCertificate(authority.Certificate[0])
	if err != nil {
		return nil, fmt.Errorf("certificate of the authority: %w", err)
	}
	template := valid("smshooks bench intermediate")
	template.IsCA, template.BasicConstraintsValid, template.KeyUsage = true, true, x509.KeyUsageCertSign
	raw, err := x509.CreateCertificate(rand.Reader, template, root, key.Public(), authority.PrivateKey)
	if err != nil {
		return nil, fmt.Errorf("certificate of the intermediate authority: %w", err)
	}
	intermediate, err := x509.ParseCertificate(raw)
	return &issuer{key: key, intermediate: intermediate}, err
}

func valid(name string) *x509.Certificate {
	return &x509.Certificate{
		SerialNumber: big.NewInt(time.Now().UnixNano()), Subject: pkix.Name{CommonName: name},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(24 * time.Hour),
	}
}

// config returns the TLS configuration of all hosts.
func (i *issuer) config(f Fleet) *tls.Config {
	return &tls.Config{MinVersion: tls.VersionTLS13, GetCertificate: func(hello *tls.ClientHelloInfo) (*tls.Certificate, error) {
		if host := f.hostOf(hello.ServerName); host == 0 || ClassOf(host) == FailsTLS {
			return nil, fmt.Errorf("no certificate for %q", hello.ServerName)
		}
		return i.certificate(hello.ServerName)
	}}
}

// certificate returns the certificate for a host's name.
func (i *issuer) certificate(name string) (*tls.Certificate, error) {
	if c, ok := i.made.Load(name); ok {
		return c.(*tls.Certificate), nil
	}
	template := valid(name)
	template.KeyUsage, template.ExtKeyUsage = x509.KeyUsageDigitalSignature, []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}
	template.DNSNames = []string{name}
	leaf, err := x509.CreateCertificate(rand.Reader, template, i.intermediate, i.key.Public(), i.key)
	if err != nil {
		return nil, fmt.Errorf("certificate of %s: %w", name, err)
	}
	c := &tls.Certificate{Certificate: [][]byte{leaf, i.intermediate.Raw}, PrivateKey: i.key}
	i.made.Store(name, c)
	return c, nil
}

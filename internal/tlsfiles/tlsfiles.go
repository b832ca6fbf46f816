// Package tlsfiles adds TLS to connections, with certificates from files that may be renewed while the process runs.
package tlsfiles

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"sync"
)

// Settings configure the encryption of connections. Files are PEM.
type Settings struct {
	Enabled bool
	// CAFile replaces the system's certificate authorities.
	CAFile string
	// CertFile and KeyFile are the client's certificate; both or neither.
	CertFile, KeyFile string
	// ServerName overrides the name that the server's certificate is checked against.
	ServerName         string
	InsecureSkipVerify bool
}

// SettingError is a setting that cannot be used: the file it names is missing or has the wrong content.
type SettingError struct {
	Setting string // dotted name
	Err     error
}

func (e *SettingError) Error() string { return e.Setting + ": " + e.Err.Error() }

func (e *SettingError) Unwrap() error { return e.Err }

// Dial opens a connection.
type Dial = func(ctx context.Context, network, addr string) (net.Conn, error)

// Files is a set of certificate files. It is safe for concurrent use. A nil Files stands for connections without TLS.
type Files struct {
	section  string // of the settings, as in kafka.tls
	settings Settings
	report   func(error)

	mu      sync.Mutex
	current *tls.Config
	seen    []fs.FileInfo // the files that current was read from
}

// Open reads the files. section is the dotted name of the settings, which errors begin with. report may be nil; it
// receives the error when renewed files cannot be used, in which case the previous ones stay in use, and nil once they
// can. Open returns nil when TLS is off.
func Open(section string, settings Settings, report func(error)) (*Files, error) {
	if !settings.Enabled {
		return nil, nil
	}
	if report == nil {
		report = func(error) {}
	}
	f := &Files{section: section, settings: settings, report: report}
	if err := f.read(f.look()); err != nil {
		return nil, err
	}
	return f, nil
}

// Reload reads the files again, whether or not they seem to have changed. Open connections are not affected.
func (f *Files) Reload() error {
	if f == nil {
		return nil
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	err := f.read(f.look())
	f.report(err)
	return err
}

// HandshakeError is a TLS handshake that failed.
type HandshakeError struct {
	Addr    string
	section string
	err     error
}

func (e *HandshakeError) Error() string {
	return fmt.Sprintf("TLS with %s (%s): %v", e.Addr, e.section, e.err)
}

// Unwrap returns what went wrong.
func (e *HandshakeError) Unwrap() error { return e.err }

// Over returns dial with TLS on top, or dial itself if f is nil. Files that have changed are read before a connection
// is made. ctx bounds the handshake, too.
func (f *Files) Over(dial Dial) Dial {
	if f == nil {
		return dial
	}
	return func(ctx context.Context, network, addr string) (net.Conn, error) {
		conn, err := dial(ctx, network, addr)
		if err != nil {
			return nil, err
		}
		cfg := f.config()
		if cfg.ServerName == "" {
			host, _, err := net.SplitHostPort(addr)
			if err != nil {
				conn.Close()
				return nil, fmt.Errorf("address %q: %w", addr, err)
			}
			cfg = cfg.Clone()
			cfg.ServerName = host
		}
		secured := tls.Client(conn, cfg)
		if err := secured.HandshakeContext(ctx); err != nil {
			conn.Close()
			return nil, &HandshakeError{Addr: addr, section: f.section, err: err}
		}
		return secured, nil
	}
}

// config returns the TLS configuration for the current files.
func (f *Files) config() *tls.Config {
	f.mu.Lock()
	defer f.mu.Unlock()
	if now := f.look(); !same(now, f.seen) {
		f.report(f.read(now))
	}
	return f.current
}

// paths returns the files in the order of names.
func (f *Files) paths() [3]string {
	return [3]string{f.settings.CAFile, f.settings.CertFile, f.settings.KeyFile}
}

// look returns the state of each file, nil for one that is not named or missing.
func (f *Files) look() []fs.FileInfo {
	var infos []fs.FileInfo
	for _, path := range f.paths() {
		info, err := os.Stat(path)
		if err != nil {
			info = nil
		}
		infos = append(infos, info)
	}
	return infos
}

func same(a, b []fs.FileInfo) bool {
	for i := range a {
		if (a[i] == nil) != (b[i] == nil) {
			return false
		}
		if a[i] != nil && (a[i].Size() != b[i].Size() || !a[i].ModTime().Equal(b[i].ModTime()) || !os.SameFile(a[i], b[i])) {
			return false
		}
	}
	return true
}

// read builds the configuration from the files; seen is their state just before. After an error the previous
// configuration stays, and the next connection tries again.
func (f *Files) read(seen []fs.FileInfo) error {
	s := f.settings
	cfg := &tls.Config{MinVersion: tls.VersionTLS12, ServerName: s.ServerName, InsecureSkipVerify: s.InsecureSkipVerify} //nolint:gosec // an explicit setting, false by default
	if s.CAFile != "" {
		pem, err := os.ReadFile(s.CAFile)
		if err != nil {
			return f.wrong("ca_file", err)
		}
		cfg.RootCAs = x509.NewCertPool()
		if !cfg.RootCAs.AppendCertsFromPEM(pem) {
			return f.wrong("ca_file", fmt.Errorf("%s contains no PEM certificate", s.CAFile))
		}
	}
	switch {
	case s.CertFile != "" && s.KeyFile == "":
		return f.wrong("key_file", errors.New("must be set with "+f.section+".cert_file"))
	case s.CertFile == "" && s.KeyFile != "":
		return f.wrong("cert_file", errors.New("must be set with "+f.section+".key_file"))
	case s.CertFile != "":
		cert, err := f.pair()
		if err != nil {
			return err
		}
		cfg.Certificates = []tls.Certificate{cert}
	}
	f.current, f.seen = cfg, seen
	return nil
}

func (f *Files) pair() (tls.Certificate, error) {
	s := f.settings
	certPEM, err := os.ReadFile(s.CertFile)
	if err != nil {
		return tls.Certificate{}, f.wrong("cert_file", err)
	}
	keyPEM, err := os.ReadFile(s.KeyFile)
	if err != nil {
		return tls.Certificate{}, f.wrong("key_file", err)
	}
	cert, err := tls.X509KeyPair(certPEM, keyPEM)
	if err != nil {
		return tls.Certificate{}, f.wrong("cert_file", fmt.Errorf("%s with %s (%s.key_file): %w", s.CertFile, s.KeyFile,
			f.section, err))
	}
	return cert, nil
}

func (f *Files) wrong(setting string, err error) error {
	return &SettingError{f.section + "." + setting, err}
}

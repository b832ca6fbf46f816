// Package arch tests the architecture: imports go down only, and each driver stays in the packages that own it. It
// reads the packages from `go list`, so that it sees what the compiler sees.
package arch

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

const module = "github.com/smshooks/smshooks"

// floors lists the packages of each floor. A package may import only packages of lower floors. A path includes the
// folders below it, and packages below the same path may import each other. The longest matching path decides.
var floors = map[string]int{
	"pkg/*": 0, // the folders of pkg are separate packages and do not import each other

	module: 0, // documents for customers: the standard library only

	"internal/tlsfiles": 0, // the standard library only: the connections to Kafka and Redis use it
	"internal/http1":    0, // the standard library only: internal/sender uses it
	"internal/dnscache": 0, // the standard library and golang.org/x only: internal/sender uses it

	"internal/outage": 1,
	"internal/topics": 1,

	"internal/kafka":   2,
	"internal/metrics": 2,
	"internal/event":   2,
	"internal/sender":  2,

	"internal/compacted": 3,

	"consumer":             4,
	"dispatcher":           4,
	"retry":                4,
	"internal/settings":    4,
	"internal/apikey":      4,
	"internal/firstclick":  4,
	"internal/latest":      4,
	"internal/revocation":  4,
	"internal/deliverylog": 4,
	"internal/deadletter":  4,
	"internal/explain":     4,
	"internal/replay":      4,
	"internal/release":     4,
	"internal/endpoints":   4,
	"internal/tracing":     4,
	"internal/clock":       4,

	"config":       5,
	"internal/api": 5,

	// The page uses the same service as the JSON API, so that the two cannot disagree.
	"internal/web": 6,

	"internal/app":      7,
	"internal/embedded": 7,

	// The demo runs the whole service, so it is above the package that wires the service.
	"internal/demo": 8,

	"cmd/smshooks": 9,
}

// outside lists programs and tests that no package may import. They may import any package.
var outside = []string{"test", "tools", "examples"}

// drivers lists the packages that may import a library. The longest matching path decides. Other libraries are allowed
// from floor 1 up. Floor 0 imports only the standard library and golang.org/x.
var drivers = map[string][]string{
	"github.com/twmb/franz-go":           {"internal/kafka", "consumer", "retry", "internal/compacted", "internal/settings", "internal/apikey", "internal/deadletter", "internal/explain", "internal/endpoints", "internal/release", "internal/app", "internal/demo", "internal/embedded", "internal/api", "test", "tools", "examples"},
	"github.com/twmb/franz-go/pkg/kfake": {"internal/embedded", "test"},
	"github.com/twmb/franz-go/plugin":    {"internal/kafka", "internal/metrics", "internal/app"},
	"github.com/redis/go-redis":          {"internal/settings", "internal/firstclick", "internal/latest", "internal/app", "internal/api", "internal/deliverylog", "internal/replay", "internal/endpoints", "internal/web", "test", "tools"},
	"github.com/alicebob/miniredis":      {"internal/embedded", "test"},
	"github.com/spf13/viper":             {"config"},
	"github.com/spf13/cobra":             {"cmd/smshooks", "tools"},
	"github.com/prometheus":              {"internal/metrics", "internal/app", "internal/demo", "test"},
	"go.opentelemetry.io":                {"internal/tracing", "test"},
	"github.com/testcontainers":          {"test/real"},
	"github.com/moby":                    {"test/real"},
	"github.com/chromedp":                {"test/real"},
	"github.com/Shopify/toxiproxy":       {"test/real"},
	"github.com/valyala/fasthttp":        {"tools/bench"},
	"github.com/golang-jwt":              {"internal/web", "test"},
	"github.com/yuin/goldmark":           {"internal/web"},
	"code.dny.dev/ssrf":                  {"internal/sender"},
	"net/http":                           {"internal/http1", "internal/sender", "internal/api", "internal/web", "internal/metrics", "internal/app", "internal/demo", "internal/kafka", "cmd/smshooks", "examples", "test", "tools"},
	"golang.org/x/oauth2":                {"internal/kafka"},
	"github.com/aws/aws-sdk-go-v2":       {"internal/kafka"},
}

// within reports whether path is root or lies below it.
func within(path, root string) bool {
	return path == root || strings.HasPrefix(path, root+"/")
}

// floorOf returns the floor of a package and the path it belongs to. ok is false if it has no floor.
func floorOf(pkg string) (floor int, root string, ok bool) {
	for path, f := range floors {
		base, each := strings.CutSuffix(path, "/*")
		r := base
		if each {
			rest, below := strings.CutPrefix(pkg, base+"/")
			if !below {
				continue
			}
			name, _, _ := strings.Cut(rest, "/")
			r = base + "/" + name
		}
		if within(pkg, r) && len(r) > len(root) {
			floor, root, ok = f, r, true
		}
	}
	return floor, root, ok
}

func isOutside(pkg string) bool {
	return slices.ContainsFunc(outside, func(o string) bool { return within(pkg, o) })
}

// fault returns what is wrong if pkg (a path inside the module) imports imp (a full path), or "".
func fault(pkg, imp string) string {
	if own, ok := strings.CutPrefix(imp, module+"/"); ok {
		return ownFault(pkg, own)
	}
	if f, _, ok := floorOf(pkg); ok && f == 0 && strings.Contains(strings.Split(imp, "/")[0], ".") && !within(imp, "golang.org/x") {
		return fmt.Sprintf("%s imports %s: pkg/* uses the standard library and golang.org/x only", pkg, imp)
	}
	driver := ""
	for d := range drivers {
		if within(imp, d) && len(d) > len(driver) {
			driver = d
		}
	}
	if driver == "" || slices.ContainsFunc(drivers[driver], func(p string) bool { return within(pkg, p) }) {
		return ""
	}
	return fmt.Sprintf("%s imports %s: only %s may", pkg, imp, strings.Join(drivers[driver], ", "))
}

func ownFault(pkg, imp string) string {
	switch {
	case isOutside(pkg):
		return ""
	case isOutside(imp):
		return fmt.Sprintf("%s imports %s: tests, tools and examples must not be imported", pkg, imp)
	}
	from, fromRoot, ok := floorOf(pkg)
	if !ok {
		return fmt.Sprintf("%s has no floor: give it one in test/arch", pkg)
	}
	to, toRoot, ok := floorOf(imp)
	if !ok {
		return fmt.Sprintf("%s has no floor: give it one in test/arch", imp)
	}
	switch {
	case fromRoot == toRoot || to < from:
		return ""
	case to > from:
		return fmt.Sprintf("%s (floor %d) imports %s (floor %d): upward", pkg, from, imp, to)
	default:
		return fmt.Sprintf("%s imports %s: sideways on floor %d; declare an interface and let internal/app provide it", pkg, imp, from)
	}
}

type goPackage struct {
	ImportPath                         string
	Imports, TestImports, XTestImports []string
}

// modules are the folders that have a go.mod and import the service.
var modules = []string{".", "tools/bench", "test/real"}

// list returns the packages of a module. It also lists a package that does not compile, as far as it
// can be read: the build reports the error.
func list(t *testing.T, dir string) []goPackage {
	t.Helper()
	var stderr bytes.Buffer
	cmd := exec.Command("go", "list", "-e", "-json=ImportPath,Imports,TestImports,XTestImports", "./...")
	cmd.Dir, cmd.Stderr = filepath.Join("..", "..", dir), &stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("go list: %v\n%s", err, stderr.String())
	}
	var pkgs []goPackage
	for dec := json.NewDecoder(bytes.NewReader(out)); ; {
		var p goPackage
		if err := dec.Decode(&p); errors.Is(err, io.EOF) {
			return pkgs
		} else if err != nil {
			t.Fatalf("go list printed invalid JSON: %v", err)
		}
		pkgs = append(pkgs, p)
	}
}

func TestImports(t *testing.T) {
	var pkgs []goPackage
	for _, dir := range modules {
		in := list(t, dir)
		if len(in) < 2 {
			t.Fatalf("go list returned %d packages of %s: the test checks nothing", len(in), dir)
		}
		pkgs = append(pkgs, in...)
	}
	for _, p := range pkgs {
		pkg := strings.TrimPrefix(p.ImportPath, module+"/")
		if _, _, ok := floorOf(pkg); !ok && !isOutside(pkg) {
			t.Errorf("%s has no floor: give it one in test/arch", pkg)
		}
		for _, imp := range p.Imports {
			if f := fault(pkg, imp); f != "" {
				t.Error(f)
			}
		}
	}
}

// TestOtherModulesLibraries checks that libraries for containers, browsers, proxies and the compared clients stay in
// other modules, also in tests: whatever a test of the service imports is in the service's go.mod.
func TestOtherModulesLibraries(t *testing.T) {
	for _, p := range list(t, ".") {
		pkg := strings.TrimPrefix(p.ImportPath, module+"/")
		for _, imp := range slices.Concat(p.Imports, p.TestImports, p.XTestImports) {
			for driver, in := range drivers {
				if within(imp, driver) && len(in) == 1 && slices.Contains(modules, in[0]) {
					t.Errorf("%s imports %s: only the module %s may", pkg, imp, in[0])
				}
			}
		}
	}
}

// TestRules checks that the rules can fail.
func TestRules(t *testing.T) {
	for _, tc := range []struct{ pkg, imp, want string }{
		{"consumer", module + "/pkg/offsets", ""},
		{"internal/app", module + "/consumer", ""},
		{"cmd/smshooks", module + "/internal/app", ""},
		{"internal/settings/store", module + "/internal/settings", ""},
		{"test/real", module + "/internal/app", ""},
		{"consumer", "fmt", ""},
		{"internal/app", "go.uber.org/zap", ""},
		{"internal/app", module + "/consumerish", "no floor"},
		{"pkg/lanes", module + "/internal/event", "upward"},
		{"internal/kafka", module + "/retry", "upward"},
		{"config", module + "/internal/app", "upward"},
		{"consumer", module + "/dispatcher", "sideways"},
		{"pkg/lanes", module + "/pkg/offsets", "sideways"},
		{"internal/api", module + "/config", "sideways"},
		{"internal/newcomer", module + "/pkg/lanes", "no floor"},
		{"internal/app", module + "/test/real/harness", "must not be imported"},
		{"pkg/webhook", "encoding/json", ""},
		{"pkg/webhook", "go.uber.org/zap", "standard library and golang.org/x only"},
		{"pkg/webhook", "golang.org/x/net/idna", ""},
		{"consumer", "github.com/twmb/franz-go/pkg/kgo", ""},
		{"dispatcher", "github.com/twmb/franz-go/pkg/kgo", "only"},
		{"consumer", "github.com/twmb/franz-go/pkg/kfake", "only"},
		{"internal/firstclick", "github.com/redis/go-redis/v9", ""},
		{"retry", "github.com/redis/go-redis/v9", "only"},
		{"config", "github.com/spf13/viper", ""},
		{"internal/app", "github.com/spf13/viper", "only"},
		{"internal/app", "github.com/spf13/cobra", "only"},
		{"internal/sender", "net/http", ""},
		{"retry", "net/http", "only"},
		{"retry", "net/http/httptest", "only"},
	} {
		got := fault(tc.pkg, tc.imp)
		if (tc.want == "") != (got == "") || !strings.Contains(got, tc.want) {
			t.Errorf("%s imports %s: %q, want it to contain %q", tc.pkg, tc.imp, got, tc.want)
		}
	}
}

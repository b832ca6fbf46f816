package harness

import (
	"encoding/json"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"testing"
	"time"
)

// Clock sets the wall clock of instances, like an administrator or a broken time server. Their monotonic clock, and
// with it timers and timeouts, is not affected, nor is any other process.
type Clock struct {
	Binary string // the program, built with a package time whose wall clock can be stepped
	Env    string // for Options.Env
	file   string
}

const stepVariable = "SMSHOOKS_TEST_CLOCK"

// Sources that replace the real ones in such a build.
const (
	stepTime = `package time

import "sync/atomic"

var step atomic.Int64

// Step sets by how many seconds the wall clock is off.
func Step(seconds int64) { step.Store(seconds) }
`
	stepMain = `package main

import (
	"os"
	"strconv"
	"strings"
	"time"
)

func init() {
	read := func() {
		b, _ := os.ReadFile(os.Getenv("` + stepVariable + `"))
		if n, err := strconv.ParseInt(strings.TrimSpace(string(b)), 10, 64); err == nil {
			time.Step(n)
		}
	}
	read()
	go func() {
		for {
			time.Sleep(10 * time.Millisecond)
			read()
		}
	}()
}
`
)

// SteppedClock builds the program with a clock that can be stepped. The first build on a machine compiles the whole
// standard library. Later ones find it in Go's cache, since the sources are in the same place.
func SteppedClock(t testing.TB) *Clock {
	t.Helper()
	Need(t)
	dir := t.TempDir()
	cache, err := os.UserCacheDir()
	if err != nil {
		t.Fatal(err)
	}
	kept := filepath.Join(cache, "smshooks-test-clock", runtime.Version())
	if err := os.MkdirAll(kept, 0o700); err != nil {
		t.Fatal(err)
	}
	write := func(name, text string) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	keep := func(name, text string) string { // renamed: another test process may be reading it
		path := filepath.Join(kept, name)
		next := path + "." + strconv.Itoa(os.Getpid())
		if err := errors.Join(os.WriteFile(next, []byte(text), 0o600), os.Rename(next, path)); err != nil {
			t.Fatal(err)
		}
		return path
	}
	// Use another path: a toolchain that go.mod selected is in the module cache, where files cannot be replaced.
	goroot, installed := filepath.Join(kept, "goroot"), strings.TrimSpace(output(t, "go", "env", "GOROOT"))
	if there, err := os.Readlink(goroot); err != nil || there != installed {
		_ = os.Remove(goroot)
		if err := os.Symlink(installed, goroot); err != nil && !errors.Is(err, os.ErrExist) {
			t.Fatal(err)
		}
	}
	std := filepath.Join(goroot, "src", "time")
	original, err := os.ReadFile(filepath.Join(std, "time.go"))
	if err != nil {
		t.Fatal(err)
	}
	const before, reads = "func Now() Time {\n\tsec, nsec, mono := runtimeNow()\n", "\tsec += step.Load()\n"
	stepped := strings.Replace(string(original), before, before+reads, 1)
	if stepped == string(original) {
		t.Fatalf("time.Now of %s has changed: the overlay does not fit", runtime.Version())
	}
	root := moduleRoot(t)
	overlay, err := json.Marshal(map[string]map[string]string{"Replace": {
		filepath.Join(std, "time.go"):                     keep("time.go", stepped),
		filepath.Join(std, "step.go"):                     keep("step.go", stepTime),
		filepath.Join(root, "cmd", "smshooks", "step.go"): keep("main.go", stepMain),
	}})
	if err != nil {
		t.Fatal(err)
	}
	c := &Clock{Binary: filepath.Join(dir, "smshooks"), file: write("clock", "0\n")}
	c.Env = stepVariable + "=" + c.file
	output(t, "env", "GOROOT="+goroot, "go", "-C", root, "build", "-buildvcs=false", "-overlay", write("overlay.json", string(overlay)), "-o", c.Binary, "./cmd/smshooks")
	return c
}

// moduleRoot returns the directory of the service's module. Commands that build or test the service run there, so that
// they use the versions of its own go.mod.
func moduleRoot(t testing.TB) string {
	t.Helper()
	return strings.TrimSpace(output(t, "go", "list", "-m", "-f", "{{.Dir}}", "github.com/smshooks/smshooks"))
}

func output(t testing.TB, command string, args ...string) string {
	t.Helper()
	var errs strings.Builder
	cmd := exec.Command(command, args...)
	cmd.Stderr = &errs
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("%s %s: %v\n%s", command, strings.Join(args, " "), err, errs.String())
	}
	return string(out)
}

// Step sets the offset of the wall clock from the machine's. It takes effect within 10 ms.
func (c *Clock) Step(t testing.TB, off time.Duration) {
	t.Helper()
	next := c.file + ".next" // renamed: a reader never sees half a number
	err := os.WriteFile(next, []byte(strconv.FormatInt(int64(off.Seconds()), 10)+"\n"), 0o600)
	if err == nil {
		err = os.Rename(next, c.file)
	}
	if err != nil {
		t.Fatal(err)
	}
}

package harness_test

import (
	"bufio"
	"os"
	"os/exec"
	"strings"
	"testing"

	"github.com/smshooks/smshooks/test/real/harness"
)

const portsVariable = "SMSHOOKS_TEST_PRINT_PORTS"

// TestPorts checks that test processes that run at the same time never get the same port.
func TestPorts(t *testing.T) {
	const n = 250 // more than a block
	if os.Getenv(portsVariable) != "" {
		for range n {
			os.Stdout.WriteString("addr " + harness.FreeAddr(t) + "\n")
		}
		_, _ = os.Stdin.Read(make([]byte, 1)) // keep them until the other process ends
		return
	}
	seen := map[string]bool{}
	take := func(addr string) {
		if seen[addr] {
			t.Errorf("%s was returned twice", addr)
		}
		seen[addr] = true
	}
	for range 3 {
		other := exec.Command(os.Args[0], "-test.run=^TestPorts$")
		other.Env = append(os.Environ(), portsVariable+"=1")
		in, err := other.StdinPipe()
		if err != nil {
			t.Fatal(err)
		}
		out, err := other.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := other.Start(); err != nil {
			t.Fatal(err)
		}
		lines := bufio.NewScanner(out)
		for got := 0; got < n && lines.Scan(); {
			if addr, ok := strings.CutPrefix(lines.Text(), "addr "); ok {
				take(addr)
				got++
			}
		}
		t.Cleanup(func() { _ = in.Close(); _ = other.Wait() })
	}
	for range n {
		take(harness.FreeAddr(t))
	}
	if len(seen) != 4*n {
		t.Errorf("%d ports, want %d", len(seen), 4*n)
	}
}

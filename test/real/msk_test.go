package real_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/smshooks/smshooks/test/real/harness"
)

// mskPayload is a line of the file that TestMSKPayload of internal/kafka reads.
type mskPayload struct {
	Host    string          `json:"host"`
	Key     string          `json:"key"`
	Secret  string          `json:"secret"`
	Token   string          `json:"token,omitempty"`
	Payload json.RawMessage `json:"payload"` // login that AWS's library sends to the broker
}

// TestMSKLogin calls AWS's own library for the logins of MSK, and compares the client's logins with its answers.
func TestMSKLogin(t *testing.T) {
	t.Parallel()
	harness.Need(t)
	library := os.Getenv("SMSHOOKS_TEST_MSK_LIBRARY")
	if library == "" {
		t.Fatal(`SMSHOOKS_TEST_MSK_LIBRARY is not set: run eval "$(test/stack/up.sh)"`)
	}
	known, err := os.ReadFile("../../internal/kafka/testdata/msk-payloads.jsonl")
	if err != nil {
		t.Fatal(err)
	}
	var (
		cases []mskPayload
		input strings.Builder
	)
	for line := range bytes.Lines(known) {
		var c mskPayload
		if err := json.Unmarshal(line, &c); err != nil {
			t.Fatal(err)
		}
		cases = append(cases, c)
		fmt.Fprintln(&input, strings.TrimSpace(strings.Join([]string{c.Host, c.Key, c.Secret, c.Token}, " ")))
	}
	java := exec.CommandContext(t.Context(), "java", "-XX:TieredStopAtLevel=1", "-cp", filepath.Join(library, "*"),
		"testdata/msk/Payload.java")
	var stderr bytes.Buffer
	java.Stdin, java.Stderr = strings.NewReader(input.String()), &stderr
	out, err := java.Output()
	if err != nil {
		t.Fatalf("AWS's library: %v\n%s", err, &stderr)
	}
	payloads := bytes.Split(bytes.TrimSpace(out), []byte("\n"))
	if len(payloads) != len(cases) {
		t.Fatalf("AWS's library answers %d of %d cases:\n%s", len(payloads), len(cases), out)
	}
	file := filepath.Join(t.TempDir(), "payloads.jsonl")
	var text bytes.Buffer
	for i, c := range cases {
		c.Payload = payloads[i]
		if err := json.NewEncoder(&text).Encode(c); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.WriteFile(file, text.Bytes(), 0o600); err != nil {
		t.Fatal(err)
	}
	compare := exec.CommandContext(t.Context(), "go", "-C", "../..", "test", "-count=1", "-v", "-run", "^TestMSKPayload$", "./internal/kafka")
	compare.Env = append(os.Environ(), "SMSHOOKS_TEST_MSK_PAYLOADS="+file)
	if out, err := compare.CombinedOutput(); err != nil || !bytes.Contains(out, []byte("--- PASS: TestMSKPayload")) {
		t.Errorf("%v\n%s", err, out)
	}
}

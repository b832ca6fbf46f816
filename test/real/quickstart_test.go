package real_test

import (
	"cmp"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/smshooks/smshooks/test/real/harness"
)

const receiverPort = "8090"

// TestQuickstart types the console blocks of docs/quickstart.md into bash and compares what is printed with what the
// page shows. Ports are replaced by free ones, in the page and by settings. No other test uses bin/smshooks, which the
// page builds.
func TestQuickstart(t *testing.T) {
	harness.Need(t)
	t.Parallel()
	page, err := os.ReadFile("../../docs/quickstart.md")
	if err != nil {
		t.Fatal(err)
	}
	embedded, composed, found := strings.Cut(string(page), "## With Kafka and Redis in containers")
	if !found {
		t.Fatal("the page has no section about containers")
	}
	ports := freePorts(t, "8080", "9464", "19092", "16379", receiverPort, "8091", "8099")
	t.Run("embedded", func(t *testing.T) {
		env := []string{"SMSHOOKS_EMBEDDED_DIR=" + t.TempDir(), "SMSHOOKS_API_ADDR=127.0.0.1:" + ports["8080"],
			"SMSHOOKS_OPS_ADDR=127.0.0.1:" + ports["9464"], "SMSHOOKS_EMBEDDED_KAFKA_ADDR=127.0.0.1:" + ports["19092"], "SMSHOOKS_EMBEDDED_REDIS_ADDR=127.0.0.1:" + ports["16379"]}
		if n := typeBlocks(t, renumber(embedded, ports), env); n < 10 {
			t.Errorf("only %d commands were found in the page", n)
		}
	})
	t.Run("compose", func(t *testing.T) {
		tool := "docker-compose"
		if exec.Command("docker", "compose", "version").Run() == nil {
			tool = "docker compose"
		}
		more := freePorts(t, "KAFKA_PORT", "REDIS_PORT")
		const image = "local/smshooks:quickstart-test"
		env := []string{fmt.Sprint("COMPOSE_PROJECT_NAME=smshooks-test-quickstart-", os.Getpid()),
			"API_PORT=" + ports["8080"], "OPS_PORT=" + ports["9464"],
			"KAFKA_PORT=" + more["KAFKA_PORT"], "REDIS_PORT=" + more["REDIS_PORT"],
			"VERSION=quickstart-test", "IMAGE=" + image, "SMSHOOKS_IMAGE=" + image}
		for _, name := range []string{"KAFKA", "REDIS"} {
			if image := os.Getenv("SMSHOOKS_TEST_" + name + "_IMAGE"); image != "" {
				env = append(env, "SMSHOOKS_"+name+"_IMAGE="+image)
			}
		}
		t.Cleanup(func() {
			bash := newTerminal(t, env)
			bash.run(t, command{line: tool + " down -v --timeout=20", shown: "…\n", ends: true})
		})
		if n := typeBlocks(t, strings.ReplaceAll(renumber(composed, ports), "docker compose ", tool+" "), env); n < 5 {
			t.Errorf("only %d commands were found in the page", n)
		}
	})
}

// freePorts returns a free port for each name.
func freePorts(t *testing.T, names ...string) map[string]string {
	t.Helper()
	ports := map[string]string{}
	for _, name := range names {
		_, port, err := net.SplitHostPort(harness.FreeAddr(t))
		if err != nil {
			t.Fatal(err)
		}
		ports[name] = port
	}
	return ports
}

// renumber replaces the ports of addresses in text, except that of the receiver in the output of serve, which no
// setting changes.
func renumber(text string, ports map[string]string) string {
	var lines strings.Builder
	for line := range strings.Lines(text) {
		printed := strings.HasPrefix(line, "Next, ") || strings.HasPrefix(line, "  curl ")
		for fixed, free := range ports {
			if fixed != receiverPort || !printed {
				line = regexp.MustCompile(`:`+fixed+`\b`).ReplaceAllString(line, ":"+free)
			}
		}
		lines.WriteString(line)
	}
	return lines.String()
}

// command is a line to type, and its output on the page.
type command struct {
	line, shown string
	ends        bool
}

// secretText matches a signing secret. A command of the page has secretShown in its place.
var secretText = regexp.MustCompile(`whsec_[\w+/=-]+`)

const secretShown = "whsec_…"

var consoleBlock = regexp.MustCompile("(?ms)^```console( title=\"(.*?)\")?\n(.*?)^```$")

// typeBlocks runs the commands of a page's console blocks and returns their number. Each title of a block is a separate
// terminal. Commands of blocks without a title must succeed, and print exactly what is shown. In the other terminals a
// program may keep running; a block without a command shows its further output. The secret that was printed last
// replaces secretShown.
func typeBlocks(t *testing.T, page string, env []string) (n int) {
	t.Helper()
	terminals, secret := map[string]*terminal{}, secretShown
	for _, block := range consoleBlock.FindAllStringSubmatch(page, -1) {
		title := block[2]
		if terminals[title] == nil {
			terminals[title] = newTerminal(t, env)
		}
		output, rest, _ := strings.Cut("\n"+block[3], "\n$ ")
		if output = strings.TrimPrefix(output, "\n"); output != "" {
			c := command{line: "the program in " + title, shown: "…\n" + output}
			if got, status := terminals[title].wait(t, c); status != "" {
				t.Fatalf("%s has ended, exit code %s:\n%s", c.line, status, got)
			}
		}
		for typed := range strings.SplitSeq(rest, "\n$ ") {
			if line, shown, _ := strings.Cut(typed, "\n"); line != "" {
				line = strings.Replace(line, secretShown, secret, 1)
				got := terminals[title].run(t, command{line, strings.TrimSuffix(shown, "\n") + "\n", title == ""})
				secret = cmp.Or(secretText.FindString(got), secret)
				n++
			}
		}
	}
	return n
}

// terminal is a bash that receives lines. Its output is in a file, with a mark after each command.
type terminal struct {
	stdin *os.File
	out   string
	lines int
}

func newTerminal(t *testing.T, env []string) *terminal {
	t.Helper()
	root, err := filepath.Abs("../..")
	if err != nil {
		t.Fatal(err)
	}
	out, err := os.Create(filepath.Join(t.TempDir(), "terminal"))
	if err != nil {
		t.Fatal(err)
	}
	read, write, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command("bash")
	cmd.Dir, cmd.Stdin, cmd.Stdout, cmd.Stderr = root, read, out, out
	cmd.Env = append(os.Environ(), env...)
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true} // its children end with it
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	_ = out.Close() // bash has its own
	_ = read.Close()
	t.Cleanup(func() {
		group := -cmd.Process.Pid
		_ = syscall.Kill(group, syscall.SIGTERM)
		_ = write.Close()
		_ = cmd.Wait() // ended by the signal
		ended := func() bool { return syscall.Kill(group, 0) != nil }
		harness.Eventually(t, time.Minute, ended, "the programs of the terminal have ended")
	})
	return &terminal{stdin: write, out: out.Name()}
}

// changes matches commands that must not be repeated.
var changes = regexp.MustCompile(`^make | -d | -X |keys create|send --user`)

// run types a command. It repeats a command until the reply is as shown, like a person would, if it only reads or the API
// does not know its new key yet. It returns the output.
func (b *terminal) run(t *testing.T, c command) (got string) {
	t.Helper()
	reads := c.ends && !changes.MatchString(c.line)
	for began := time.Now(); ; {
		b.lines++
		if _, err := fmt.Fprintf(b.stdin, "{ %s\n} </dev/null; printf '<<%d %%d>>\\n' $?\n", c.line, b.lines); err != nil {
			t.Fatal(err)
		}
		got, status := b.wait(t, c)
		switch {
		case (status == "" || status == "0") && pattern(c.shown, c.ends).MatchString(got):
			return got
		case !reads && !strings.Contains(got, "the key is missing or unknown") || time.Since(began) > time.Minute:
			t.Fatalf("%s: exit code %s\n%s\nthe page shows\n%s", c.line, status, got, c.shown)
		}
		harness.Pass(100 * time.Millisecond)
	}
}

// wait waits until the last command has ended, or has printed what is shown if it keeps running. It returns the output,
// and the exit code if it has ended.
func (b *terminal) wait(t *testing.T, c command) (got, status string) {
	t.Helper()
	want, before := pattern(c.shown, c.ends), regexp.MustCompile(fmt.Sprintf(`<<%d \d+>>\n`, b.lines-1))
	harness.Eventually(t, 10*time.Minute, func() bool { // the first commands compile
		text, err := os.ReadFile(b.out)
		if err != nil {
			t.Fatal(err)
		}
		got = string(text)
		if at := before.FindStringIndex(got); at != nil {
			got = got[at[1]:]
		} else if b.lines > 1 {
			return false
		}
		got, status, _ = strings.Cut(got, fmt.Sprintf("<<%d ", b.lines))
		if status != "" && got != "" && !strings.HasSuffix(got, "\n") { // a reply of curl
			got += "\n"
		}
		return status != "" || !c.ends && want.MatchString(got)
	}, "%s prints\n%s\nit printed\n%v", c.line, c.shown, lastly{func() string { return got }})
	return got, strings.TrimSuffix(status, ">>\n")
}

// pattern returns a pattern for output that begins with what is shown, or equals it. "…" stands for any text in a line,
// or for any lines if it is alone.
func pattern(shown string, all bool) *regexp.Regexp {
	expr := "^"
	for line := range strings.Lines(shown) {
		switch {
		case line == "\n":
		case line == "…\n":
			expr += `(?:[^\n]*\n)*?`
		default:
			expr += strings.ReplaceAll(regexp.QuoteMeta(line), "…", `[^\n]*`)
		}
	}
	if all {
		expr += "$"
	}
	return regexp.MustCompile(expr)
}

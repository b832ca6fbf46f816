package main

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"

	"github.com/smshooks/smshooks/tools/bench/result"
)

// peer is a program of others that does the same job.
type peer struct {
	subject string
	warm    int // events to deliver before it is measured: a JVM compiles what runs often
	prepare func() error
	start   func(ctx context.Context, w *env, t *target) (*child, error)
}

// The peers' names in tables. Benthos has no setting for idle connections. The second of its rows changes Go's default
// transport, which is possible only for a program that embeds benthos.
const (
	benthos     = "benthos"
	benthosIdle = "benthos (64 idle)"
	connect     = "Kafka Connect"
)

// findPeers finds the peers that can be measured, and notes why the others are left out.
func (b *bench) findPeers(ctx context.Context) {
	omit := func(subject, reason string) {
		b.leftOut = append(b.leftOut, subject+": "+reason)
		b.say("%s is left out: %s", subject, reason)
	}
	if root, err := checkout(ctx); err != nil {
		omit(benthos, "it is built from the checkout, and this is outside of it")
	} else {
		source := filepath.Join(root, "tools/bench/benthos")
		build := sync.OnceValue(func() error {
			_, err := output(ctx, "go", "-C", source, "build", "-trimpath", "-o", b.benthos(), ".")
			return err
		})
		b.peers = append(b.peers,
			peer{subject: benthos, prepare: build, start: b.startBenthos(0)},
			peer{subject: benthosIdle, prepare: build, start: b.startBenthos(wide)})
	}
	if b.ConnectPlugin == "" {
		omit(connect, "--connect-plugin names no HTTP sink")
		return
	}
	none := func() error { return nil }
	b.peers = append(b.peers, peer{subject: connect, warm: b.Records / 6, prepare: none, start: b.startConnect})
}

// benthos is the path of the program that findPeers builds.
func (b *bench) benthos() string { return filepath.Join(b.dir, "benthos") }

func (b *bench) startBenthos(idle int) func(context.Context, *env, *target) (*child, error) {
	return func(_ context.Context, w *env, t *target) (*child, error) {
		return b.spawn(benthos, b.benthos(), b.trust(), "--kafka="+b.kafka.addr, "--group="+w.group(),
			"--topic="+w.topic("dlr"), "--base="+t.base(), "--idle="+strconv.Itoa(idle))
	}
}

// worker and sink are the settings of Kafka Connect. A connector has one URL, and sends each record's value as it is.
const (
	worker = `bootstrap.servers=%s
listeners=http://127.0.0.1:%s
plugin.path=/plugin
offset.storage.file.filename=/tmp/offsets
key.converter=org.apache.kafka.connect.storage.StringConverter
value.converter=org.apache.kafka.connect.storage.StringConverter
`
	sink = `name=bench
connector.class=io.aiven.kafka.connect.http.HttpSinkConnector
tasks.max=%d
topics=%s
consumer.override.group.id=%s
http.url=%s/dlr
http.authorization.type=none
http.headers.content.type=application/json
http.timeout=10
`
	// The options are those of connect-standalone.sh, which Kafka's image may not have.
	runConnect = `set -e
keytool -importcert -noprompt -alias bench -file /bench/` + certFile + ` -keystore /tmp/trust -storepass changeit >&2
exec java -server -Xms256M -Xmx2G -XX:+UseG1GC -XX:MaxGCPauseMillis=20 -XX:InitiatingHeapOccupancyPercent=35 \
  -XX:+ExplicitGCInvokesConcurrent -Djavax.net.ssl.trustStore=/tmp/trust -Djavax.net.ssl.trustStorePassword=changeit \
  -cp '/opt/kafka/libs/*' org.apache.kafka.connect.cli.ConnectStandalone \
  /bench/worker.properties /bench/sink.properties >&2`
)

// startConnect starts a Kafka Connect worker in a container of Kafka's image, with a task for each partition.
func (b *bench) startConnect(ctx context.Context, w *env, t *target) (*child, error) {
	ports, err := freePorts(1)
	if err != nil {
		return nil, err
	}
	for file, text := range map[string]string{
		"worker.properties": fmt.Sprintf(worker, b.kafka.addr, ports[0]),
		"sink.properties":   fmt.Sprintf(sink, w.partitions, w.topic("dlr"), w.group(), t.base()),
	} {
		if err := os.WriteFile(filepath.Join(b.dir, file), []byte(text), 0o600); err != nil {
			return nil, fmt.Errorf("settings of %s: %w", connect, err)
		}
	}
	name := w.group() + "-connect"
	c, err := b.spawn(connect, "docker", nil, "run", "--rm", "--name", name, "--label", "smshooks-bench",
		"--network", "host", "--user", "0", "-v", b.dir+":/bench:ro", "-v", b.ConnectPlugin+":/plugin/http:ro",
		"--entrypoint", "sh", choose(ctx, kafkaImages), "-c", runConnect)
	if err != nil {
		return nil, err
	}
	c.remove = func() error {
		_, err := docker(context.WithoutCancel(ctx), "rm", "-f", "-v", name)
		return err
	}
	if err := b.await(ctx, connect, func(ctx context.Context) error { return c.find(ctx, name) }); err != nil {
		c.kill()
		return nil, err
	}
	return c, nil
}

// find makes the child the Java process of a container instead of the command that started it.
func (c *child) find(ctx context.Context, container string) error {
	text, err := docker(ctx, "inspect", "-f", "{{.State.Pid}}", container)
	if err != nil {
		return fmt.Errorf("%w: %s", err, c.tail())
	}
	name, err := os.ReadFile(filepath.Join("/proc", text, "comm"))
	if err != nil {
		return err
	}
	if strings.TrimSpace(string(name)) != "java" {
		return fmt.Errorf("process %s is %q: %s", text, name, c.tail())
	}
	c.pid, err = strconv.Atoi(text)
	return err
}

// peersIn returns the contests of the peers that drain count events of a backlog, after those that warm them.
func (b *bench) peersIn(w *env, t *target, condition string, count int) []contest {
	var contests []contest
	for _, p := range b.peers {
		run := func(ctx context.Context) (result.Figures, error) {
			if err := p.prepare(); err != nil {
				return nil, err
			}
			w.again()
			start := func() (*child, error) { return p.start(ctx, w, t) }
			return b.drain(ctx, t, p.warm, count, start, nil)
		}
		contests = append(contests, contest{p.subject, condition, run})
	}
	return contests
}

// peersAt returns the contests of the peers while events arrive at a rate.
func (b *bench) peersAt(w *env, condition string, perSecond float64) []contest {
	var contests []contest
	for _, p := range b.peers {
		run := func(ctx context.Context) (result.Figures, error) {
			if err := p.prepare(); err != nil {
				return nil, err
			}
			start := func() (*child, error) { return p.start(ctx, w, b.plain) }
			keep := func(ctx context.Context, c *child) (result.Figures, error) { return b.atRate(ctx, w, c, perSecond) }
			return b.running(ctx, w, max(1, p.warm), start, keep)
		}
		contests = append(contests, contest{p.subject, condition, run})
	}
	return contests
}

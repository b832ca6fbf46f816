package harness

import (
	"context"
	"testing"

	"github.com/twmb/franz-go/pkg/kgo"
)

// Broker is a single-node Kafka in a container.
type Broker struct {
	Addr string // 127.0.0.1:port, the same across stop and start
	srv  *server
}

// Kafka returns the broker that all tests of the process share. It cannot be stopped.
func Kafka(t testing.TB) *Broker {
	t.Helper()
	s := kafkaSpec()
	s.env = func(addrs []string) map[string]string {
		vars := kafkaEnv(addrs)
		vars["KAFKA_BROKER_SESSION_TIMEOUT_MS"] = "60000"              // no test stops it, but a busy machine may hold it up
		vars["KAFKA_HEAP_OPTS"] = env("KAFKA_HEAP", "-Xms256m -Xmx1g") // for the topics of all tests
		return vars
	}
	srv := sharedKafka.get(t, s)
	if err := measuredPace.start(srv.addr); err != nil {
		t.Fatalf("measure the machine's pace: %v", err)
	}
	return &Broker{Addr: srv.addr, srv: srv}
}

// OwnKafka starts a broker for the test, which may stop, kill and pause it. It takes about two seconds.
func OwnKafka(t testing.TB) *Broker {
	t.Helper()
	srv := runOwn(t, kafkaSpec())
	return &Broker{Addr: srv.addr, srv: srv}
}

// Stop shuts the broker down cleanly. Its data are kept.
func (b *Broker) Stop(t testing.TB) { t.Helper(); b.srv.stop(t) }

// Start starts a stopped or killed broker at the same address and returns when it answers.
func (b *Broker) Start(t testing.TB) { t.Helper(); b.srv.start(t) }

// Kill ends the broker with SIGKILL. Its data are kept.
func (b *Broker) Kill(t testing.TB) { t.Helper(); b.srv.kill(t) }

// Pause freezes the broker: connections stay open and nothing answers.
func (b *Broker) Pause(t testing.TB) { t.Helper(); b.srv.pause(t) }

// Unpause resumes a paused broker.
func (b *Broker) Unpause(t testing.TB) { t.Helper(); b.srv.unpause(t) }

func kafkaSpec() spec {
	return spec{name: "kafka", image: env("SMSHOOKS_TEST_KAFKA_IMAGE", "apache/kafka:4.1.1"), ports: []string{"9092"}, env: kafkaEnv, ready: askKafka}
}

func kafkaEnv(addrs []string) map[string]string {
	return map[string]string{
		"KAFKA_NODE_ID":                        "1",
		"KAFKA_PROCESS_ROLES":                  "broker,controller",
		"KAFKA_CONTROLLER_QUORUM_VOTERS":       "1@localhost:9093",
		"KAFKA_CONTROLLER_LISTENER_NAMES":      "CONTROLLER",
		"KAFKA_LISTENER_SECURITY_PROTOCOL_MAP": "CONTROLLER:PLAINTEXT,PLAINTEXT:PLAINTEXT,INTERNAL:PLAINTEXT",
		"KAFKA_LISTENERS":                      "PLAINTEXT://0.0.0.0:9092,INTERNAL://0.0.0.0:19092,CONTROLLER://localhost:9093",
		"KAFKA_ADVERTISED_LISTENERS":           "PLAINTEXT://" + addrs[0] + ",INTERNAL://localhost:19092",
		// A broker connects to itself for transactions, and cannot use the address for clients inside the container.
		"KAFKA_INTER_BROKER_LISTENER_NAME":               "INTERNAL",
		"KAFKA_OFFSETS_TOPIC_REPLICATION_FACTOR":         "1",
		"KAFKA_OFFSETS_TOPIC_NUM_PARTITIONS":             "1",
		"KAFKA_TRANSACTION_STATE_LOG_REPLICATION_FACTOR": "1",
		"KAFKA_TRANSACTION_STATE_LOG_MIN_ISR":            "1",
		"KAFKA_TRANSACTION_STATE_LOG_NUM_PARTITIONS":     "1",
		"KAFKA_LOG_CLEANER_DEDUPE_BUFFER_SIZE":           "8388608", // of the heap; 128 MiB by default
		"KAFKA_GROUP_INITIAL_REBALANCE_DELAY_MS":         "0",
		// a topic that is created automatically would hide a missing `topics ensure`
		"KAFKA_AUTO_CREATE_TOPICS_ENABLE": "false",
		// tests use session timeouts of a second or two
		"KAFKA_GROUP_MIN_SESSION_TIMEOUT_MS": "500",
		// A killed broker waits until its own old registration has expired, 9 s by default. A broker that a busy machine
		// holds up for longer is fenced: its partitions have no leader until it sends a heartbeat again.
		"KAFKA_BROKER_SESSION_TIMEOUT_MS":       "6000",
		"KAFKA_BROKER_HEARTBEAT_INTERVAL_MS":    "500",
		"KAFKA_HEAP_OPTS":                       env("KAFKA_HEAP", "-Xms256m -Xmx512m"),
		"KAFKA_LOG_RETENTION_CHECK_INTERVAL_MS": "300000",
	}
}

func askKafka(ctx context.Context, addr string) error {
	cl, err := kgo.NewClient(kgo.SeedBrokers(addr))
	if err != nil {
		return err
	}
	defer cl.Close()
	return cl.Ping(ctx)
}

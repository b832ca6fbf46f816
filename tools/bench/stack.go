package main

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"strconv"
	"time"
)

// The images to use, the first that exists on the machine; otherwise the last of each is pulled. The environment
// variables are those of the real test floor.
var (
	kafkaImages = []string{os.Getenv("SMSHOOKS_TEST_KAFKA_IMAGE"), "local/kafka:4.1.1", "apache/kafka:4.1.1"}
	redisImages = []string{os.Getenv("SMSHOOKS_TEST_REDIS_IMAGE"), "local/redis:7", "redis:7"}
)

// server is a Kafka or Redis, in our own container or given.
type server struct {
	addr      string
	image     string // "" = given
	container string
}

func (s *server) String() string {
	if s.image == "" {
		return "given"
	}
	return s.image
}

// stop removes the container, if it is ours.
func (s *server) stop() error {
	if s == nil || s.container == "" {
		return nil
	}
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	_, err := docker(ctx, "rm", "-f", "-v", s.container)
	return err
}

func docker(ctx context.Context, args ...string) (string, error) {
	return output(ctx, "docker", args...)
}

// choose returns the first image that is on the machine, else the last, which docker run pulls.
func choose(ctx context.Context, images []string) string {
	for _, image := range images {
		if image == "" {
			continue
		}
		if _, err := docker(ctx, "image", "inspect", image); err == nil {
			return image
		}
	}
	return images[len(images)-1]
}

// freePorts returns n loopback ports on which nothing listens. They are below the range from which the system picks
// ports for outgoing connections (32768 and up on Linux), so that none is taken before the server listens.
func freePorts(n int) ([]string, error) {
	const lowest, highest, tries = 15_000, 20_000, 100
	var ports []string
	for range tries {
		l, err := net.Listen("tcp", fmt.Sprintf("127.0.0.1:%d", lowest+rand.IntN(highest-lowest)))
		if err != nil {
			continue
		}
		defer l.Close() // close them after all are found, so that none is returned twice
		ports = append(ports, strconv.Itoa(l.Addr().(*net.TCPAddr).Port))
		if len(ports) == n {
			return ports, nil
		}
	}
	return nil, fmt.Errorf("find %d free ports from %d to %d: all that were tried are taken", n, lowest, highest)
}

// startContainer starts a container on the host's own network: a published port would go through Docker's proxy, and
// the proxy would take processor time from what is measured.
func startContainer(ctx context.Context, images []string, port string, args func(image string) []string) (*server, error) {
	if _, err := docker(ctx, "version"); err != nil {
		return nil, fmt.Errorf("docker is missing or does not answer; pass --kafka HOST:PORT and --redis HOST:PORT: %w", err)
	}
	image := choose(ctx, images)
	id, err := docker(ctx, append([]string{"run", "-d", "--label", "smshooks-bench", "--network", "host"}, args(image)...)...)
	if err != nil {
		return nil, err
	}
	return &server{addr: "127.0.0.1:" + port, image: image, container: id}, nil
}

func startKafka(ctx context.Context) (*server, error) {
	ports, err := freePorts(2)
	if err != nil {
		return nil, err
	}
	addr, controller := "127.0.0.1:"+ports[0], "127.0.0.1:"+ports[1]
	env := []string{
		"KAFKA_NODE_ID=1", "KAFKA_PROCESS_ROLES=broker,controller", "KAFKA_CONTROLLER_QUORUM_VOTERS=1@" + controller,
		"KAFKA_CONTROLLER_LISTENER_NAMES=CONTROLLER", "KAFKA_LISTENER_SECURITY_PROTOCOL_MAP=CONTROLLER:PLAINTEXT,PLAINTEXT:PLAINTEXT",
		"KAFKA_LISTENERS=PLAINTEXT://" + addr + ",CONTROLLER://" + controller, "KAFKA_ADVERTISED_LISTENERS=PLAINTEXT://" + addr,
		"KAFKA_OFFSETS_TOPIC_REPLICATION_FACTOR=1", "KAFKA_OFFSETS_TOPIC_NUM_PARTITIONS=1",
		"KAFKA_TRANSACTION_STATE_LOG_REPLICATION_FACTOR=1", "KAFKA_TRANSACTION_STATE_LOG_MIN_ISR=1",
		"KAFKA_GROUP_INITIAL_REBALANCE_DELAY_MS=0", "KAFKA_AUTO_CREATE_TOPICS_ENABLE=false",
		"KAFKA_HEAP_OPTS=-Xms1g -Xmx1g",
	}
	return startContainer(ctx, kafkaImages, ports[0], func(image string) []string {
		var args []string
		for _, v := range env {
			args = append(args, "-e", v)
		}
		return append(args, image)
	})
}

func startRedis(ctx context.Context) (*server, error) {
	ports, err := freePorts(1)
	if err != nil {
		return nil, err
	}
	return startContainer(ctx, redisImages, ports[0], func(image string) []string {
		return []string{image, "redis-server", "--bind", "127.0.0.1", "--port", ports[0], "--save", "", "--appendonly", "no"}
	})
}

// startStack starts the servers that were not given, and waits until both answer.
func (b *bench) startStack(ctx context.Context) (err error) {
	b.kafka, b.redis = &server{addr: b.Kafka}, &server{addr: b.Redis}
	if b.Kafka == "" {
		if b.kafka, err = startKafka(ctx); err != nil {
			return err
		}
	}
	if b.Redis == "" {
		if b.redis, err = startRedis(ctx); err != nil {
			return err
		}
	}
	if err := b.connect(); err != nil {
		return err
	}
	return errors.Join(
		b.await(ctx, "Kafka at "+b.kafka.addr, func(ctx context.Context) error { return b.client.Ping(ctx) }),
		b.await(ctx, "Redis at "+b.redis.addr, func(ctx context.Context) error { return b.cache.Ping(ctx).Err() }),
	)
}

// await retries until there is an answer, for at most a minute.
func (b *bench) await(ctx context.Context, what string, ask func(context.Context) error) error {
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	for {
		once, done := context.WithTimeout(ctx, 2*time.Second)
		err := ask(once)
		done()
		if err == nil {
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("%s does not answer: %w", what, err)
		case <-time.After(100 * time.Millisecond):
		}
	}
}

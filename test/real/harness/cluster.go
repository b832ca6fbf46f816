package harness

import (
	"os"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/testcontainers/testcontainers-go"
	tcnetwork "github.com/testcontainers/testcontainers-go/network"
)

// Cluster is three brokers on their own network. Everything has three replicas, of which two must have a record before
// it is acknowledged. Each broker is in its own rack, rack-1 to rack-3. The first one is also the controller; the
// others may be killed.
type Cluster struct {
	Addr    string // of all, separated by commas
	Brokers [3]*Broker
}

// OwnCluster starts a cluster for the test. It takes about ten seconds.
func OwnCluster(t testing.TB) *Cluster {
	t.Helper()
	Need(t)
	ctx := within(t, time.Minute)
	nw, err := tcnetwork.New(ctx, tcnetwork.WithLabels(map[string]string{ownerLabel: owner(os.Getpid())}))
	if err != nil {
		t.Fatalf("network of the cluster: %v", err)
	}
	t.Cleanup(func() {
		if err := nw.Remove(within(t, Patience)); err != nil {
			t.Errorf("remove the cluster's network: %v", err)
		}
	})
	c := &Cluster{}
	var addrs []string
	for i := range c.Brokers {
		s := kafkaSpec()
		s.name = "kafka-" + strconv.Itoa(i+1)
		s.env = func(addrs []string) map[string]string { return clusterEnv(i+1, addrs[0]) }
		s.more = []testcontainers.ContainerCustomizer{tcnetwork.WithNetwork([]string{s.name}, nw)}
		srv := runOwn(t, s)
		c.Brokers[i] = &Broker{Addr: srv.addr, srv: srv}
		addrs = append(addrs, srv.addr)
	}
	c.Addr = strings.Join(addrs, ",")
	return c
}

func clusterEnv(node int, addr string) map[string]string {
	name := "kafka-" + strconv.Itoa(node)
	vars := kafkaEnv([]string{addr})
	vars["KAFKA_NODE_ID"] = strconv.Itoa(node)
	vars["KAFKA_CONTROLLER_QUORUM_VOTERS"] = "1@kafka-1:9093"
	vars["KAFKA_LISTENERS"] = "PLAINTEXT://0.0.0.0:9092,INTERNAL://0.0.0.0:19092"
	vars["KAFKA_ADVERTISED_LISTENERS"] = "PLAINTEXT://" + addr + ",INTERNAL://" + name + ":19092"
	if node == 1 {
		vars["KAFKA_LISTENERS"] += ",CONTROLLER://0.0.0.0:9093"
	} else {
		vars["KAFKA_PROCESS_ROLES"] = "broker"
	}
	vars["KAFKA_BROKER_RACK"] = "rack-" + strconv.Itoa(node)
	vars["KAFKA_REPLICA_SELECTOR_CLASS"] = "org.apache.kafka.common.replica.RackAwareReplicaSelector"
	vars["KAFKA_DEFAULT_REPLICATION_FACTOR"] = "3"
	vars["KAFKA_MIN_INSYNC_REPLICAS"] = "2"
	vars["KAFKA_OFFSETS_TOPIC_REPLICATION_FACTOR"] = "3"
	vars["KAFKA_REPLICA_LAG_TIME_MAX_MS"] = "3000" // otherwise a dead replica holds up writes for half a minute
	vars["KAFKA_HEAP_OPTS"] = env("KAFKA_HEAP", "-Xms192m -Xmx384m")
	return vars
}

// Command benthos delivers as a pipeline of Redpanda Connect does: the open-source engine of that program (benthos),
// its http_client output, and an input that reads Kafka as its kafka_franz does. The benchmark compares it with the
// service. It is a program and a module of its own: within the benchmark's program its libraries would add to the
// memory of all subjects.
package main

import (
	"context"
	_ "embed"
	"flag"
	"fmt"
	"log/slog"
	"net/http"
	"os"
	"os/signal"
	"syscall"
	"time"

	_ "github.com/redpanda-data/benthos/v4/public/components/io"
	_ "github.com/redpanda-data/benthos/v4/public/components/pure"
	"github.com/redpanda-data/benthos/v4/public/service"
)

//go:embed config.yaml
var config string

func main() {
	kafka := flag.String("kafka", "", "a broker, HOST:PORT")
	group := flag.String("group", "", "consumer group")
	topic := flag.String("topic", "", "topic of delivery receipts")
	base := flag.String("base", "", "URL without the path")
	idle := flag.Int("idle", 0, "idle connections per host, for which the pipeline has no setting; 0 = Go's default, 2")
	flag.Parse()
	if *idle > 0 {
		// http_client uses Go's default transport.
		http.DefaultTransport.(*http.Transport).MaxIdleConnsPerHost = *idle
	}
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, syscall.SIGINT)
	err := run(ctx, map[string]string{"KAFKA": *kafka, "GROUP": *group, "TOPIC": *topic, "BASE": *base})
	stop()
	if err != nil {
		fmt.Fprintf(os.Stderr, "benthos: %v\n", err)
		os.Exit(1)
	}
}

// run delivers until ctx ends. values replace the names in the configuration.
func run(ctx context.Context, values map[string]string) error {
	env := service.GlobalEnvironment().Clone()
	if err := register(env); err != nil {
		return err
	}
	b := env.NewStreamBuilder()
	b.SetEnvVarLookupFunc(func(name string) (string, bool) {
		v, ok := values[name]
		return v, ok
	})
	if err := b.SetYAML(config); err != nil {
		return fmt.Errorf("read the configuration: %w", err)
	}
	b.SetLogger(slog.New(slog.NewTextHandler(os.Stderr, nil)))
	stream, err := b.Build()
	if err != nil {
		return fmt.Errorf("build the pipeline: %w", err)
	}
	err = stream.Run(ctx)
	if ctx.Err() != nil {
		err = stream.StopWithin(10 * time.Second) // Run leaves it running
	}
	if err != nil {
		return fmt.Errorf("run the pipeline: %w", err)
	}
	return nil
}

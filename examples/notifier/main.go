// Command notifier is an example of a program that reads endpoint events. It prints the mail that it would send to the
// customer for each.
//
// The events are CloudEvents 1.0 in binary mode: attributes are in headers that begin with ce_, data is the value. A
// consumer group keeps the position. It is committed after the mails are sent, so a crash may send some twice; a real
// notifier would remember the ids (ce_id) it has seen.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"strings"
	"syscall"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"
)

func main() {
	brokers := flag.String("brokers", "127.0.0.1:9092", "host:port of some brokers, comma-separated")
	topic := flag.String("topic", "webhook-events", "topic of endpoint events")
	group := flag.String("group", "webhook-notifier", "consumer group")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, os.Interrupt)
	defer stop()
	if err := run(ctx, strings.Split(*brokers, ","), *topic, *group, os.Stdout); err != nil {
		fmt.Fprintf(os.Stderr, "notifier: %v\n", err)
		os.Exit(1)
	}
}

// run sends a mail for each event until ctx ends.
func run(ctx context.Context, brokers []string, topic, group string, to io.Writer) error {
	client, err := kgo.NewClient(kgo.SeedBrokers(brokers...), kgo.ConsumeTopics(topic), kgo.ConsumerGroup(group),
		kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()), kgo.DisableAutoCommit())
	if err != nil {
		return err
	}
	defer client.Close()
	for {
		fetches := client.PollFetches(ctx)
		if ctx.Err() != nil {
			return nil
		}
		if err := fetches.Err(); err != nil {
			return fmt.Errorf("read topic %s: %w", topic, err)
		}
		for _, record := range fetches.Records() {
			mail, err := mailOf(record)
			if err != nil {
				fmt.Fprintf(os.Stderr, "notifier: %s/%d/%d: %v\n", record.Topic, record.Partition, record.Offset, err)
				continue
			}
			if _, err := fmt.Fprintf(to, "%s\n\n", mail); err != nil {
				return err
			}
		}
		if err := client.CommitUncommittedOffsets(ctx); err != nil && ctx.Err() == nil {
			return fmt.Errorf("commit offsets of topic %s: %w", topic, err)
		}
	}
}

// data is the value of an event.
type data struct {
	UserID  int64     `json:"user_id"`
	Kind    string    `json:"kind"`
	Host    *string   `json:"host"`
	Since   time.Time `json:"since"`
	Failure *string   `json:"failure"`
	Count   int64     `json:"count"`
}

// mailOf returns the mail for an event.
func mailOf(record *kgo.Record) (string, error) {
	attributes := map[string]string{}
	for _, header := range record.Headers {
		attributes[header.Key] = string(header.Value)
	}
	if version := attributes["ce_specversion"]; version != "1.0" {
		return "", fmt.Errorf("ce_specversion %q: must be 1.0", version)
	}
	var d data
	if err := json.Unmarshal(record.Value, &d); err != nil {
		return "", fmt.Errorf("value: %w", err)
	}
	host, failure, since := "your server", "no attempt was made in time", d.Since.UTC().Format("2 January 15:04 MST")
	if d.Host != nil {
		host = *d.Host
	}
	if d.Failure != nil {
		failure = *d.Failure
	}
	var subject, text string
	switch kind := attributes["ce_type"]; kind {
	case "smshooks.endpoint.failing":
		subject = fmt.Sprintf("%s does not accept %s webhooks", host, d.Kind)
		text = fmt.Sprintf("%[2]d attempts have failed since %[1]s. The last failure: %[3]s. We try each event again.",
			since, d.Count, failure)
	case "smshooks.endpoint.recovered":
		subject = fmt.Sprintf("%s accepts %s webhooks again", host, d.Kind)
		text = fmt.Sprintf("%d attempts had failed since %s. The last failure: %s.", d.Count, since, failure)
	case "smshooks.events.dead":
		subject = fmt.Sprintf("%d %s events were not delivered to %s", d.Count, d.Kind, host)
		text = fmt.Sprintf("We gave them up since %s. The last failure: %s. You can send them again for 30 days.",
			since, failure)
	default:
		return "", errors.New("ce_type " + kind + ": unknown")
	}
	return fmt.Sprintf("To: user %d\nSubject: %s\n\n%s", d.UserID, subject, text), nil
}

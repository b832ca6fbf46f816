package kafka

import (
	"cmp"
	"context"
	"fmt"

	"github.com/twmb/franz-go/pkg/kgo"
)

// ProduceWithin writes records and waits until all have a result, or ctx ends. It returns the first error.
//
// [kgo.Client.ProduceSync] does not return when ctx ends: the client does not give up a record that it has sent once,
// whatever its context and [kgo.RecordDeliveryTimeout] say. After an error, records may still be stored, and the caller
// must not use them.
func ProduceWithin(ctx context.Context, client *kgo.Client, records ...*kgo.Record) error {
	results := make(chan error, len(records))
	for _, r := range records {
		client.Produce(ctx, r, func(_ *kgo.Record, err error) { results <- err })
	}
	var first error
	for range records {
		select {
		case err := <-results:
			first = cmp.Or(first, err)
		case <-ctx.Done():
			return fmt.Errorf("no result yet, records may still be stored: %w", cmp.Or(first, ctx.Err()))
		}
	}
	return first
}

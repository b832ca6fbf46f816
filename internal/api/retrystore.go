package api

import (
	"context"
	"errors"
	"time"

	"github.com/smshooks/smshooks/internal/apikey"
	"github.com/smshooks/smshooks/internal/compacted"
	"github.com/smshooks/smshooks/internal/settings"
)

const (
	// notReadyTimeout is how long a request waits for a store that is not ready: a topic was created again and is
	// being read, or Redis was emptied and is being filled.
	notReadyTimeout = 2 * time.Second
	notReadyPause   = 20 * time.Millisecond
)

// retryingStore retries while a store is not ready.
type retryingStore struct {
	keys      Keys
	documents Documents
}

func (p retryingStore) KeyUser(ctx context.Context, hash string) (userID int64, found bool, err error) {
	err = untilReady(ctx, func() (err error) {
		userID, found, err = p.keys.KeyUser(ctx, hash)
		return err
	})
	return userID, found, err
}

func (p retryingStore) Document(ctx context.Context,
	userID int64) (d settings.Document, v compacted.Version, err error) {
	err = untilReady(ctx, func() (err error) {
		d, v, err = p.documents.Document(ctx, userID)
		return err
	})
	return d, v, err
}

func (p retryingStore) Update(ctx context.Context, userID int64,
	change func(settings.Document) settings.Document) (settings.Document, error) {
	return p.documents.Update(ctx, userID, change) // retries by itself
}

func untilReady(ctx context.Context, ask func() error) error {
	for end := time.Now().Add(notReadyTimeout); ; {
		err := ask()
		if !errors.Is(err, settings.ErrNotReady) && !errors.Is(err, apikey.ErrNotReady) || time.Now().After(end) {
			return err
		}
		select {
		case <-ctx.Done():
			return err
		case <-time.After(notReadyPause):
		}
	}
}

package api

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"github.com/smshooks/smshooks/internal/settings"
)

func TestUntilReady(t *testing.T) {
	away := errors.New("away")
	tests := []struct {
		name  string
		after int // calls that find the store not ready
		then  error
		want  error
	}{
		{"ready at once", 0, nil, nil},
		{"ready in a moment", 5, nil, nil},
		{"another error ends it", 2, away, away},
		{"never ready", 1 << 20, nil, settings.ErrNotReady},
	}
	for _, test := range tests {
		synctest.Test(t, func(t *testing.T) {
			calls, began := 0, time.Now()
			err := untilReady(context.Background(), func() error {
				if calls++; calls <= test.after {
					return fmt.Errorf("store: %w", settings.ErrNotReady)
				}
				return test.then
			})
			if !errors.Is(err, test.want) || test.want == nil && err != nil {
				t.Errorf("%s: %v, want %v", test.name, err, test.want)
			}
			if took := time.Since(began); took > notReadyTimeout+notReadyPause {
				t.Errorf("%s: took %v", test.name, took)
			}
		})
	}
}

package release

import (
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kmsg"
)

// TestBeginEndsWithItsContext checks that Begin fails in time if the broker has received the record and does not answer.
func TestBeginEndsWithItsContext(t *testing.T) {
	k := newEnv(t)
	i := k.start(&owner{})
	k.begin(i, Marker{Cause: Operator, Users: map[int64][]string{1: nil}}) // the client is connected
	answer := make(chan struct{})
	defer close(answer)
	k.cluster.ControlKey(int16(kmsg.Produce), func(kmsg.Request) (kmsg.Response, error, bool) {
		k.cluster.SleepControl(func() { <-answer })
		return nil, nil, false
	})
	ended := make(chan error, 1)
	go func() {
		_, err := i.Begin(t.Context(), Marker{Cause: Operator, Users: map[int64][]string{2: nil}}, []string{"retry"})
		ended <- err
	}()
	select {
	case err := <-ended:
		if err == nil {
			t.Error("no error")
		}
	case <-time.After(10 * writeTimeout):
		t.Error("Begin does not return")
	}
}

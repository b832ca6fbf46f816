package lanes_test

import (
	"fmt"
	"sync"
	"time"

	"github.com/smshooks/smshooks/pkg/lanes"
)

// Items of one key run one at a time and in order, although their group may run three items at once.
func Example() {
	var done sync.WaitGroup
	l := lanes.New[string](lanes.Config{
		Parallel: 3, MaxRunning: 10, HealthySlots: 2, MaxQueue: 100, MaxWait: 15 * time.Second,
	}, func(text string) lanes.Report {
		defer done.Done()
		fmt.Println(text)
		return lanes.Report{Took: time.Millisecond, OK: true, Called: true}
	})
	defer l.Close()

	const message = 7
	for _, text := range []string{"sent", "delivered", "read"} {
		done.Add(1)
		if !l.Submit("example.com", message, text) {
			fmt.Println("the queue of example.com is full")
		}
	}
	done.Wait()
	// Output:
	// sent
	// delivered
	// read
}

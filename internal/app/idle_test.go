package app_test

import (
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/twmb/franz-go/pkg/kmsg"
)

// TestIdle bounds what an idle instance asks of Kafka and Redis in a minute. Each request wakes the process.
func TestIdle(t *testing.T) {
	redis := newRedis(t)
	synctest.Test(t, func(t *testing.T) {
		w := newEnv(t, redis)
		defer w.tearDown()
		w.start()
		w.configure(42)
		w.write("sms-dlr", 42, message(42, "1"))
		time.Sleep(time.Minute)

		var mu sync.Mutex
		requests := map[string]int{}
		w.kafka.Control(func(req kmsg.Request) (kmsg.Response, error, bool) {
			w.kafka.KeepControl()
			mu.Lock()
			defer mu.Unlock()
			requests[kmsg.NameForKey(req.Key())]++
			return nil, nil, false
		})
		commands := redis.CommandCount()
		time.Sleep(time.Minute)
		commands = redis.CommandCount() - commands

		mu.Lock()
		defer mu.Unlock()
		total := 0
		for _, n := range requests {
			total += n
		}
		if most := 400; total > most {
			t.Errorf("%d requests to Kafka, want at most %d: %v", total, most, requests)
		}
		if most := 120; requests["Fetch"] > most {
			t.Errorf("%d fetches, want at most %d", requests["Fetch"], most)
		}
		if most := 500; commands > most {
			t.Errorf("%d commands to Redis, want at most %d", commands, most)
		}
	})
}

package main

import (
	"net"
	"strings"
	"testing"

	"github.com/smshooks/smshooks/config"
)

// TestNextSteps checks that the commands name the open ports, not those of the settings.
func TestNextSteps(t *testing.T) {
	cfg := config.Defaults()
	cfg.Kafka.Brokers, cfg.Redis.Addrs, cfg.API.Addr = []string{"127.0.0.1:1001"}, []string{"127.0.0.1:1002"}, ":0"
	for listener, want := range map[string]string{
		"[::]:1003": "http://127.0.0.1:1003/", "0.0.0.0:1003": "http://127.0.0.1:1003/", "127.0.0.2:1003": "http://127.0.0.2:1003/",
		"[::1]:1003": "http://[::1]:1003/",
	} {
		addr, err := net.ResolveTCPAddr("tcp", listener)
		if err != nil {
			t.Fatal(err)
		}
		for _, part := range []string{want, "SMSHOOKS_KAFKA_BROKERS=127.0.0.1:1001 SMSHOOKS_REDIS_ADDRS=127.0.0.1:1002\n"} {
			if steps := nextSteps(cfg, addr); !strings.Contains(steps, part) {
				t.Errorf("%s: no %q in\n%s", listener, part, steps)
			}
		}
	}
	if steps := nextSteps(cfg, nil); steps != "" {
		t.Errorf("without an API:\n%s", steps)
	}
}

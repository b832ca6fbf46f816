package app

import (
	"context"
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/redis/go-redis/v9"
	"go.uber.org/zap"

	"github.com/smshooks/smshooks/internal/outage"
)

const (
	policyLook = 10 * time.Second // the pause between looks at Redis's maxmemory-policy
	policySay  = time.Hour        // the pause between warnings of it
	// probeKeys is how many keys are tried to find one that each master serves.
	probeKeys = 256
	probeKept = time.Minute // how long a probe's key outlives an instance that died before it removed it
)

// redisHealth looks at what a ping does not show: whether Redis can be written, on each of its masters, whether the user
// has the rights that are needed, and whether Redis may evict keys.
type redisHealth struct {
	rdb    redis.UniversalClient
	prefix string
	log    *zap.Logger
	evicts func(bool)

	mu       sync.Mutex
	evicting []string // the policies that evict, with the node's address where there are several; nil if none
}

// ready is a check of readiness.
func (h *redisHealth) ready(ctx context.Context) error {
	if err := h.writable(ctx); err != nil {
		return err
	}
	return h.advice()
}

// writable writes a key on every master and runs each command that the service needs on a key of its own. It leaves
// nothing behind.
func (h *redisHealth) writable(ctx context.Context) error {
	keys, err := h.keys(ctx)
	if err != nil {
		return err
	}
	// The error of the whole is that of a command.
	cmds, _ := h.rdb.Pipelined(ctx, func(p redis.Pipeliner) error {
		for _, key := range keys {
			p.Set(ctx, key, "", probeKept)
			p.Del(ctx, key)
		}
		tryRights(ctx, p, keys[0])
		return nil
	})
	var refused []string
	for _, cmd := range cmds {
		switch err := cmd.Err(); {
		case err == nil || errors.Is(err, redis.Nil) || redis.HasErrorPrefix(err, "NOSCRIPT"):
		case redis.HasErrorPrefix(err, "NOPERM"):
			refused = append(refused, missingRight(err, h.prefix))
		default:
			return fmt.Errorf("%s: %w", cmd.Name(), err)
		}
	}
	// Commands without a key have no place in a cluster's pipeline.
	for _, err := range []error{h.rdb.ScriptLoad(ctx, "return 0").Err(), h.rdb.Scan(ctx, 0, h.prefix+"-", 1).Err()} {
		if redis.HasErrorPrefix(err, "NOPERM") {
			refused = append(refused, missingRight(err, h.prefix))
		}
	}
	if len(refused) > 0 {
		slices.Sort(refused)
		return fmt.Errorf("NOPERM: redis.username lacks %s", strings.Join(slices.Compact(refused), " "))
	}
	return nil
}

// tryRights runs the commands that the service uses besides SET and DEL, on keys in key's slot.
func tryRights(ctx context.Context, p redis.Pipeliner, key string) {
	text, hash, list := key, key+":hash", key+":list"
	p.Set(ctx, text, "", probeKept)
	p.Get(ctx, text)
	p.Exists(ctx, text)
	p.Type(ctx, text)
	p.HSet(ctx, hash, "v", "")
	p.HGet(ctx, hash, "v")
	p.HMGet(ctx, hash, "v")
	p.HDel(ctx, hash, "d")
	p.PExpire(ctx, hash, probeKept)
	p.Persist(ctx, hash)
	p.LPush(ctx, list, "")
	p.Expire(ctx, list, probeKept)
	p.LTrim(ctx, list, 0, 0)
	p.LRange(ctx, list, 0, 0)
	const nothing = "return 0"
	p.Eval(ctx, nothing, []string{text})
	p.Do(ctx, "EVALSHA", "0000000000000000000000000000000000000000", 1, text)
	p.Del(ctx, text, hash, list)
}

var deniedCommand = regexp.MustCompile(`run the '([^']+)' command`)

// missingRight says as an ACL rule what the user lacks.
func missingRight(err error, prefix string) string {
	if m := deniedCommand.FindStringSubmatch(err.Error()); m != nil {
		return "+" + m[1]
	}
	return "~" + prefix + "*" // the command is allowed, the key is not
}

// keys returns a key in a slot of each master, at least one key.
func (h *redisHealth) keys(ctx context.Context) ([]string, error) {
	key := func(n int) string { return h.prefix + "{probe" + strconv.Itoa(n) + "}" }
	cluster, ok := h.rdb.(*redis.ClusterClient)
	if !ok {
		return []string{key(0)}, nil
	}
	var keys []string
	seen := map[*redis.Client]bool{}
	for n := range probeKeys {
		master, err := cluster.MasterForKey(ctx, key(n))
		if err != nil {
			return nil, err
		}
		if !seen[master] {
			seen[master] = true
			keys = append(keys, key(n))
		}
	}
	return keys, nil
}

// watch looks at the policy until ctx ends, and warns at once and then hourly while Redis may evict keys.
func (h *redisHealth) watch(ctx context.Context) {
	unknown := outage.New(h.log, "cannot read Redis's maxmemory-policy: eviction would not be noticed (grant +info)", "Redis's maxmemory-policy can be read")
	ticker := time.NewTicker(policyLook)
	defer ticker.Stop()
	var said time.Time
	for {
		evicting, err := h.policies(ctx)
		var reply redis.Error
		switch {
		case err == nil:
			unknown.Recover()
			h.set(evicting)
		case errors.As(err, &reply):
			unknown.Fail(err)
		}
		// Otherwise Redis is away, which readiness says; what was known before stays.
		if text := h.advice(); text != nil && time.Since(said) >= policySay {
			said = time.Now()
			h.log.Warn("Redis may evict keys", zap.Error(text))
		} else if text == nil && !said.IsZero() {
			said = time.Time{}
			h.log.Info("Redis evicts no keys any more")
		}
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
		}
	}
}

func (h *redisHealth) set(evicting []string) {
	h.evicts(len(evicting) > 0)
	h.mu.Lock()
	h.evicting = evicting
	h.mu.Unlock()
}

// advice is a line for /readyz, nil while Redis evicts nothing.
func (h *redisHealth) advice() error {
	h.mu.Lock()
	defer h.mu.Unlock()
	if len(h.evicting) == 0 {
		return nil
	}
	return advice{fmt.Errorf("maxmemory-policy is %s: Redis may evict settings, first clicks and the log of deliveries; set it to noeviction", strings.Join(h.evicting, ", "))}
}

var policyLine = regexp.MustCompile(`(?m)^maxmemory_policy:([\w-]+)`)

// policies asks every master, each by itself, and returns the policies under which keys are evicted.
func (h *redisHealth) policies(ctx context.Context) ([]string, error) {
	ctx, cancel := context.WithTimeout(ctx, policyLook)
	defer cancel()
	cluster, ok := h.rdb.(*redis.ClusterClient)
	if !ok {
		policy, err := policyOf(ctx, h.rdb)
		if policy == "" {
			return nil, err
		}
		return []string{policy}, err
	}
	var mu sync.Mutex
	var evicting []string
	err := cluster.ForEachMaster(ctx, func(ctx context.Context, c *redis.Client) error {
		policy, err := policyOf(ctx, c)
		if policy != "" {
			mu.Lock()
			evicting = append(evicting, policy+" on "+c.Options().Addr)
			mu.Unlock()
		}
		return err
	})
	slices.Sort(evicting)
	return evicting, err
}

// policyOf returns a server's policy, "" if it evicts nothing or does not say.
func policyOf(ctx context.Context, c redis.Cmdable) (string, error) {
	info, err := c.Info(ctx, "memory").Result()
	if err != nil {
		return "", err
	}
	m := policyLine.FindStringSubmatch(info)
	if m == nil || m[1] == "noeviction" {
		return "", nil
	}
	return m[1], nil
}

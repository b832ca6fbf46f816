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
	policyPause = 10 * time.Second // between two reads of maxmemory-policy
	policyWarn  = time.Hour        // between two warnings about it
	// probeKeys is the number of keys to try in search of one for each primary.
	probeKeys = 256
	probeTTL  = time.Minute // of a probe's key, if the instance dies before it removes it
)

// redisHealth checks what a ping does not show: that every primary accepts writes, that the user has the required
// rights, and that Redis does not evict keys.
type redisHealth struct {
	rdb    redis.UniversalClient
	prefix string
	log    *zap.Logger
	evicts func(bool)

	mu       sync.Mutex
	evicting []string // policies that evict keys, with the node's address in a cluster
}

// ready is a readiness check.
func (h *redisHealth) ready(ctx context.Context) error {
	if err := h.writable(ctx); err != nil {
		return err
	}
	return h.advice()
}

// writable writes a key on every primary and runs each command that the service needs on keys of its own, which it
// removes.
func (h *redisHealth) writable(ctx context.Context) error {
	keys, err := h.keys(ctx)
	if err != nil {
		return unavailable("cluster", err)
	}
	// The error of the pipeline is that of one of its commands.
	cmds, _ := h.rdb.Pipelined(ctx, func(p redis.Pipeliner) error {
		for _, key := range keys {
			p.Set(ctx, key, "", probeTTL)
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
			return unavailable(cmd.Name(), err)
		}
	}
	// A cluster's pipeline rejects commands without a key.
	load, scan := h.rdb.ScriptLoad(ctx, "return 0"), h.rdb.Scan(ctx, 0, h.prefix+"-", 1)
	for _, cmd := range []redis.Cmder{load, scan} {
		switch err := cmd.Err(); {
		case redis.HasErrorPrefix(err, "NOPERM"):
			if cmd != scan { // without the right a start leaves rows behind that are never used, and says so
				refused = append(refused, missingRight(err, h.prefix))
			}
		case redis.HasErrorPrefix(err, "unknown command"): // disabled by rename-command
			return fmt.Errorf("%s: %w", cmd.Name(), err)
		}
	}
	if len(refused) > 0 {
		slices.Sort(refused)
		return fmt.Errorf("NOPERM: redis.username lacks %s", strings.Join(slices.Compact(refused), " "))
	}
	return nil
}

// unavailable returns the error of a command, with the setting to check if Redis did not answer.
func unavailable(command string, err error) error {
	if failure := explainRedis(err); failure != nil {
		return failure
	}
	return fmt.Errorf("%s: %w", command, err)
}

// tryRights runs the commands that the service uses besides SET and DEL, on keys in key's slot.
func tryRights(ctx context.Context, p redis.Pipeliner, key string) {
	text, hash, list := key, key+":hash", key+":list"
	p.Set(ctx, text, "", probeTTL)
	p.Get(ctx, text)
	p.Exists(ctx, text)
	p.Type(ctx, text)
	p.HSet(ctx, hash, "v", "")
	p.HGet(ctx, hash, "v")
	p.HMGet(ctx, hash, "v")
	p.HDel(ctx, hash, "d")
	p.PExpire(ctx, hash, probeTTL)
	p.Persist(ctx, hash)
	p.LPush(ctx, list, "")
	p.Expire(ctx, list, probeTTL)
	p.LTrim(ctx, list, 0, 0)
	p.LRange(ctx, list, 0, 0)
	const nothing = "return 0"
	p.Eval(ctx, nothing, []string{text})
	p.Do(ctx, "EVALSHA", "0000000000000000000000000000000000000000", 1, text)
	p.Del(ctx, text, hash, list)
}

var deniedCommand = regexp.MustCompile(`run the '([^']+)' command`)

// missingRight returns the ACL rule that the user lacks.
func missingRight(err error, prefix string) string {
	if m := deniedCommand.FindStringSubmatch(err.Error()); m != nil {
		return "+" + m[1]
	}
	return "~" + prefix + "*" // the command is allowed, the key is not
}

// keys returns a key for each primary, at least one.
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

// watch reads the policy until ctx ends. While Redis may evict keys it warns, at once and then hourly.
func (h *redisHealth) watch(ctx context.Context) {
	unknown := outage.New(h.log, "cannot read maxmemory-policy of Redis; grant +info to detect eviction",
		"maxmemory-policy of Redis can be read again")
	ticker := time.NewTicker(policyPause)
	defer ticker.Stop()
	var warned time.Time
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
		// Otherwise Redis is unreachable, which readiness reports; the last known policies stay.
		if text := h.advice(); text != nil && time.Since(warned) >= policyWarn {
			warned = time.Now()
			h.log.Warn("Redis may evict keys", zap.Error(text))
		} else if text == nil && !warned.IsZero() {
			warned = time.Time{}
			h.log.Info("Redis no longer evicts keys")
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

// advice returns a line for /readyz, or nil if Redis evicts nothing.
func (h *redisHealth) advice() error {
	h.mu.Lock()
	defer h.mu.Unlock()
	if len(h.evicting) == 0 {
		return nil
	}
	return advice{fmt.Errorf("maxmemory-policy is %s: Redis may evict settings, first clicks and deliveries; "+
		"set it to noeviction", strings.Join(h.evicting, ", "))}
}

var policyLine = regexp.MustCompile(`(?m)^maxmemory_policy:([\w-]+)`)

// policies asks every primary and returns the policies that evict keys.
func (h *redisHealth) policies(ctx context.Context) ([]string, error) {
	ctx, cancel := context.WithTimeout(ctx, policyPause)
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

// policyOf returns a server's policy, or "" if it evicts nothing or is not reported.
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

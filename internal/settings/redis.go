package settings

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/smshooks/smshooks/internal/compacted"
)

const (
	// tombstoneKept is how long the version of a removed key is kept, so that a
	// slow instance cannot bring an old document back.
	tombstoneKept = 24 * time.Hour
	// pulseKept outlasts any outage after which an instance still remembers.
	pulseKept = time.Hour
	// clusterPulses spread over a cluster's slots, so that every node has some.
	clusterPulses = 64
	// scanCount is the number of keys that Redis examines in one step of a scan.
	scanCount = 1000
)

// applyScript writes a document unless the key has the same or a newer version.
// KEYS[1] the hash; ARGV partition, offset, time, version text, milliseconds to
// keep a tombstone (0: it is none), document. It returns 1 if it wrote, 0 if the
// version was the same, 2 if it was newer. The order of versions is that of
// Version.newer. A key that is not a hash, or has no valid version, was written by another
// program and is replaced.
const applyScript = `
local old = redis.pcall('HGET', KEYS[1], 'v')
if type(old) == 'table' then
  redis.call('DEL', KEYS[1])
  old = false
end
if old then
  local p, o, t = string.match(old, '^(%d+)/(%d+)/(%-?%d+)$')
  if p and #p <= 9 and #o <= 18 and #t <= 20 then
    p, o, t = tonumber(p), tonumber(o), tonumber(t)
    local np, no, nt = tonumber(ARGV[1]), tonumber(ARGV[2]), tonumber(ARGV[3])
    if np == p then
      if no == o then return 0 end
      if no < o then return 2 end
    elseif nt < t or (nt == t and np < p) then
      return 2
    end
  end
end
if ARGV[5] == '0' then
  redis.call('HSET', KEYS[1], 'v', ARGV[4], 'd', ARGV[6])
  redis.call('PERSIST', KEYS[1])
else
  redis.call('HSET', KEYS[1], 'v', ARGV[4])
  redis.call('HDEL', KEYS[1], 'd')
  redis.call('PEXPIRE', KEYS[1], ARGV[5])
end
return 1
`

// removeScript deletes a document that still has the version seen (ARGV[1], ""
// for none), or a key that is not a hash.
const removeScript = `
local v = redis.pcall('HGET', KEYS[1], 'v')
if type(v) == 'table' or (v or '') == ARGV[1] then return redis.call('DEL', KEYS[1]) end
return 0
`

// unlockScript deletes a lock that is still ours.
const unlockScript = `
if redis.call('GET', KEYS[1]) == ARGV[1] then return redis.call('DEL', KEYS[1]) end
return 0
`

// pulseScript writes a number unless the key has less than expected, and returns what the key had, 0 for none.
// A number that arrives after a greater one is not written. KEYS[1] the key; ARGV the number expected, the new one,
// milliseconds to keep it.
const pulseScript = `
local found, new = tonumber(redis.call('GET', KEYS[1]) or '0') or 0, tonumber(ARGV[2])
if found >= tonumber(ARGV[1]) and found < new then redis.call('SET', KEYS[1], ARGV[2], 'PX', ARGV[3]) end
return found
`

// renewScript renews a lock that is ours, and takes one again that has expired. ARGV: token, milliseconds.
const renewScript = `
local holder = redis.call('GET', KEYS[1])
if not holder or holder == ARGV[1] then redis.call('SET', KEYS[1], ARGV[1], 'PX', ARGV[2]) end
return 0
`

// database is the store's part of Redis. Keys carry the topic's id: versions of
// a topic that was deleted and created again do not mix with those of the old one.
//
//	<prefix><id>:user:<user id>  hash: v = version, d = document; no d: removed
//	<prefix><id>:lock:<user id>  who may change the user's document
//	<prefix><id>:sweep           some instance compares Redis with the topic
//	<prefix>topics:<topic>       its id
//	<prefix>{pulse<n>}:<instance> a number that grows, see lost
type database struct {
	rdb    redis.UniversalClient
	prefix string
	sealer *Sealer
	id     atomic.Pointer[string]
	size   atomic.Int32 // changes per round trip

	apply, unlock, renew *redis.Script

	instance string
	beat     int   // this and pulses are used by one goroutine
	pulses   []int // the last beat of each pulse key that Redis acknowledged
}

func newDatabase(rdb redis.UniversalClient, prefix string, sealer *Sealer) *database {
	d := &database{
		rdb: rdb, prefix: prefix, sealer: sealer,
		apply: redis.NewScript(applyScript), unlock: redis.NewScript(unlockScript),
		renew:    redis.NewScript(renewScript),
		instance: randomHex(8), pulses: make([]int, 1),
	}
	if _, cluster := rdb.(*redis.ClusterClient); cluster {
		d.pulses = make([]int, clusterPulses)
	}
	d.use("")
	d.size.Store(batchSize)
	return d
}

// use switches to the keys of the topic with this id.
func (d *database) use(id string) { d.id.Store(&id) }

func (d *database) key(name string) string { return d.prefix + *d.id.Load() + ":" + name }

// row is one key of Redis; the zero row is a missing one.
type row struct {
	ver  compacted.Version
	seen string // the version's text, whatever it is
	doc  []byte // nil: there is no document
	err  error  // the key was written by another program; the other rows are still valid
}

// read returns the rows of users. [Store.rowState] decides whether they are valid.
func (d *database) read(ctx context.Context, users ...int64) ([]row, error) {
	cmds := make([]*redis.SliceCmd, len(users))
	_, err := d.rdb.Pipelined(ctx, func(p redis.Pipeliner) error {
		for i, userID := range users {
			cmds[i] = p.HMGet(ctx, d.key(userName(userID)), "v", "d")
		}
		return nil
	})
	if err != nil && !isWrongType(err) {
		return nil, fmt.Errorf("settings in Redis: %w", err)
	}
	return parseRows(cmds)
}

// isWrongType reports whether a key has a type that this package does not write. It is not an outage of Redis.
func isWrongType(err error) bool { return redis.HasErrorPrefix(err, "WRONGTYPE") }

func parseRows(cmds []*redis.SliceCmd) ([]row, error) {
	rows := make([]row, len(cmds))
	for i, cmd := range cmds {
		values, err := cmd.Result()
		switch {
		case isWrongType(err):
			rows[i].err = err
			continue
		case err != nil:
			return nil, fmt.Errorf("settings in Redis: %w", err)
		}
		var ok bool
		if rows[i].seen, ok = values[0].(string); !ok {
			continue
		}
		if rows[i].ver, rows[i].err = compacted.ParseVersion(rows[i].seen); rows[i].err != nil {
			continue
		}
		if doc, ok := values[1].(string); ok {
			rows[i].doc = []byte(doc)
		}
	}
	return rows, nil
}

// tally counts the results of write.
type tally struct {
	applied atomic.Int64 // changes that Redis did not have
	newer   atomic.Int64 // changes of which Redis has a newer version
}

// write applies changes in order, in one or more round trips, and returns the
// number of those that are done. After an error more may have been applied;
// writing them again is harmless.
//
// A round trip takes fewer changes after one that failed, and more again after
// those that did not: a server too slow for a full batch within the client's
// timeout would otherwise never get one done.
func (d *database) write(ctx context.Context, changes []change, count *tally) (done int, err error) {
	for done < len(changes) {
		size := d.size.Load()
		part := changes[done:min(done+int(size), len(changes))]
		err := d.writeOnce(ctx, part, count)
		if redis.HasErrorPrefix(err, "NOSCRIPT") {
			// Redis is new or was flushed with its scripts.
			if err := d.apply.Load(ctx, d.rdb).Err(); err != nil {
				return done, fmt.Errorf("load a script into Redis: %w", err)
			}
			err = d.writeOnce(ctx, part, count)
		}
		if err != nil {
			d.size.Store(max(size/2, 1))
			return done, fmt.Errorf("write settings to Redis: %w", err)
		}
		d.size.Store(min(size+size/8+1, batchSize))
		done += len(part)
	}
	return done, nil
}

func (d *database) writeOnce(ctx context.Context, changes []change, count *tally) error {
	cmds, err := d.rdb.Pipelined(ctx, func(p redis.Pipeliner) error {
		for i := range changes {
			c := &changes[i]
			ttl := int64(0)
			if c.removed {
				ttl = tombstoneKept.Milliseconds()
			}
			d.apply.EvalSha(ctx, p, []string{d.key(userName(c.userID))},
				c.ver.Partition, c.ver.Offset, c.ver.Time, c.ver.String(), ttl, c.stored(d.sealer))
		}
		return nil
	})
	// Any failure is enough, except that the caller must see a missing script.
	for _, cmd := range cmds {
		if e := cmd.Err(); redis.HasErrorPrefix(e, "NOSCRIPT") {
			return e
		}
	}
	if err != nil || count == nil {
		return err
	}
	for _, cmd := range cmds {
		switch n, _ := cmd.(*redis.Cmd).Int(); n {
		case 1:
			count.applied.Add(1)
		case 2:
			count.newer.Add(1)
		}
	}
	return nil
}

// removal is a row that must go, if it still has the version that was seen.
type removal struct {
	userID int64
	seen   string
}

// remove deletes rows.
func (d *database) remove(ctx context.Context, removals []removal) error {
	for part := range slices.Chunk(removals, batchSize) {
		_, err := d.rdb.Pipelined(ctx, func(p redis.Pipeliner) error {
			for _, r := range part {
				p.Eval(ctx, removeScript, []string{d.key(userName(r.userID))}, r.seen)
			}
			return nil
		})
		if err != nil {
			return fmt.Errorf("remove settings from Redis: %w", err)
		}
	}
	return nil
}

// lost reports whether a node of Redis has lost writes since the last call: it was
// emptied, came back with an older data set, or was replaced by a replica that
// was behind. Each call writes a greater number to keys on every node, unless a
// key has less than the last number that was acknowledged. Nodes are judged one by
// one: lost may be true although others do not answer and there is an error.
func (d *database) lost(ctx context.Context) (lost bool, err error) {
	for again := true; again && err == nil; {
		again, err = d.pulse(ctx)
		lost = lost || again
		// Nothing was written where a loss was found. Write there before Redis is filled again, so that the next loss is
		// noticed.
	}
	return lost, err
}

// pulse makes one round trip of lost. A loss leaves a key as it is: if the reply
// is lost, too, the next pulse finds the loss again.
func (d *database) pulse(ctx context.Context) (lost bool, err error) {
	d.beat++
	cmds := make([]*redis.Cmd, len(d.pulses))
	_, _ = d.rdb.Pipelined(ctx, func(p redis.Pipeliner) error {
		for i, acknowledged := range d.pulses {
			key := fmt.Sprintf("%s{pulse%d}:%s", d.prefix, i, d.instance)
			cmds[i] = p.Eval(ctx, pulseScript, []string{key}, acknowledged, d.beat, pulseKept.Milliseconds())
		}
		return nil
	})
	for i, cmd := range cmds {
		found, e := cmd.Int()
		switch {
		case e != nil:
			err = fmt.Errorf("watch Redis: %w", e)
		case found < d.pulses[i]:
			lost, d.pulses[i] = true, found
		default:
			d.pulses[i] = d.beat
		}
	}
	return lost, err
}

// claim reports whether this instance may do work that one instance does at a
// time. The claim lasts as long as kept.
func (d *database) claim(ctx context.Context, name string, kept time.Duration) (bool, error) {
	return d.rdb.SetNX(ctx, d.key(name), d.instance, kept).Result()
}

// previousID returns the id that the topic of this name had when replaced was last
// called, or "" if it is the current id or unknown. Topics of other names may
// share Redis and the prefix; their entries are left alone.
func (d *database) previousID(ctx context.Context, topic string) (string, error) {
	id, err := d.rdb.Get(ctx, d.prefix+"topics:"+topic).Result()
	switch {
	case errors.Is(err, redis.Nil) || id == *d.id.Load():
		return "", nil
	case err != nil:
		return "", fmt.Errorf("look for settings of a deleted topic in Redis: %w", err)
	}
	return id, nil
}

// replaced records that Redis holds nothing of the topic's previous id any more.
func (d *database) replaced(ctx context.Context, topic string) error {
	if err := d.rdb.Set(ctx, d.prefix+"topics:"+topic, *d.id.Load(), 0).Err(); err != nil {
		return fmt.Errorf("store the topic's id in Redis: %w", err)
	}
	return nil
}

// scan calls take with the names, without prefix and id, of all keys that carry
// an id, node by node, and of several nodes at once. A name may occur twice.
func (d *database) scan(ctx context.Context, id string, take func(ctx context.Context, names []string) error) error {
	prefix := d.prefix + id + ":"
	pattern := strings.NewReplacer("\\", "\\\\", "*", "\\*", "?", "\\?", "[", "\\[", "]", "\\]").Replace(prefix) + "*"
	node := func(ctx context.Context, c redis.Cmdable) error {
		for cursor := uint64(0); ; {
			keys, next, err := c.Scan(ctx, cursor, pattern, scanCount).Result()
			if err != nil {
				return fmt.Errorf("scan Redis: %w", err)
			}
			for i := range keys {
				keys[i] = strings.TrimPrefix(keys[i], prefix)
			}
			if err := take(ctx, keys); err != nil {
				return err
			}
			if cursor = next; cursor == 0 {
				return nil
			}
		}
	}
	if cluster, ok := d.rdb.(*redis.ClusterClient); ok {
		return cluster.ForEachMaster(ctx, func(ctx context.Context, c *redis.Client) error { return node(ctx, c) })
	}
	return node(ctx, d.rdb)
}

// discard deletes all keys that carry an id and returns how many.
func (d *database) discard(ctx context.Context, id string) (n int64, err error) {
	var count atomic.Int64
	err = d.scan(ctx, id, func(ctx context.Context, names []string) error {
		_, err := d.rdb.Pipelined(ctx, func(p redis.Pipeliner) error {
			for _, name := range names {
				p.Del(ctx, d.prefix+id+":"+name)
			}
			return nil
		})
		count.Add(int64(len(names)))
		return err
	})
	if err != nil {
		return count.Load(), fmt.Errorf("remove settings of a deleted topic from Redis: %w", err)
	}
	return count.Load(), nil
}

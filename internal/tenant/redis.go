package tenant

import (
	"context"
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/redis/go-redis/v9"
)

const (
	// tombstoneKept is how long a removed key remembers its version, so that a
	// slow instance can't bring an old document back.
	tombstoneKept = 24 * time.Hour
	// tokenKept outlasts any rebuild.
	tokenKept = time.Hour
)

// applyScript writes a document unless the key has the same or a newer version.
// KEYS[1] the hash; ARGV partition, offset, time, version text, milliseconds to
// keep a tombstone (0: it is none), document. The order of versions is that of
// Version.newer. What is no hash, or has no version that could be one, is not ours and gives way.
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
      if no <= o then return 0 end
    elseif nt < t or (nt == t and np < p) then
      return 0
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

// markScript sets the ready marker (KEYS[1]) if the rebuild's token (KEYS[2]) is
// still there, that is, if nothing was flushed since the rebuild began. A marker
// that stands stays: its value changes only with a flush.
const markScript = `
if redis.call('EXISTS', KEYS[2]) == 0 then return 0 end
redis.call('SET', KEYS[1], ARGV[1], 'NX')
redis.call('DEL', KEYS[2])
return 1
`

// unlockScript deletes a lock that is still ours.
const unlockScript = `
if redis.call('GET', KEYS[1]) == ARGV[1] then return redis.call('DEL', KEYS[1]) end
return 0
`

// database is the store's part of Redis. Keys carry the topics' ids: versions of
// a topic that was deleted and made anew don't mix with those of the old one.
//
//	<prefix><id>:user:<user id>  hash: v = version, d = document; no d: removed
//	<prefix><id>:key:<hex hash>  hash: v = version, d = user id
//	<prefix><id>:lock:<user id>  who may change the user's document
//	<prefix>{<id>:ready}         the marker; the tag keeps the token in its slot
//	<prefix>{<id>:ready}:<token> a rebuild at work
type database struct {
	rdb    redis.UniversalClient
	prefix string
	sealer *Sealer
	id     atomic.Pointer[string]
	size   atomic.Int32 // changes per round trip

	apply, mark, unlock *redis.Script
}

func newDatabase(rdb redis.UniversalClient, prefix string, sealer *Sealer) *database {
	d := &database{
		rdb: rdb, prefix: prefix, sealer: sealer,
		apply: redis.NewScript(applyScript), mark: redis.NewScript(markScript), unlock: redis.NewScript(unlockScript),
	}
	d.use("")
	d.size.Store(batchSize)
	return d
}

// use turns to the keys of the topics with this id.
func (d *database) use(id string) { d.id.Store(&id) }

func (d *database) key(name string) string { return d.prefix + *d.id.Load() + ":" + name }
func (d *database) marker() string         { return d.prefix + "{" + *d.id.Load() + ":ready}" }

// row is one key of Redis: the zero row is one that isn't there.
type row struct {
	ver Version
	doc []byte // nil: there is no document
	err error  // it is nothing that was written here; the other rows are good all the same
}

// read returns the rows of names, or ErrNotReady when Redis can't be believed.
//
// The marker is read before and after, and must be the same both times. After
// alone is not enough: between a read that found nothing because of a flush and
// the look at the marker, a rebuild may have ended. Before alone is not enough
// either: the flush may come in between. As each flush gives the next marker
// another value, the same value twice means that there was none between.
func (d *database) read(ctx context.Context, names []string) ([]row, error) {
	var before, after *redis.StringCmd
	cmds := make([]*redis.SliceCmd, len(names))
	marker := d.marker()
	hmgets := func(p redis.Pipeliner) {
		for i, name := range names {
			cmds[i] = p.HMGet(ctx, d.key(name), "v", "d")
		}
	}
	var err error
	if _, cluster := d.rdb.(*redis.ClusterClient); cluster {
		// A pipeline runs on several nodes at once: the order needs round trips.
		before = d.rdb.Get(ctx, marker)
		_, err = d.rdb.Pipelined(ctx, func(p redis.Pipeliner) error { hmgets(p); return nil })
		after = d.rdb.Get(ctx, marker)
	} else {
		_, err = d.rdb.Pipelined(ctx, func(p redis.Pipeliner) error {
			before = p.Get(ctx, marker)
			hmgets(p)
			after = p.Get(ctx, marker)
			return nil
		})
	}
	if err != nil && !errors.Is(err, redis.Nil) && !isWrongType(err) {
		return nil, fmt.Errorf("settings in Redis: %w", err)
	}
	for _, cmd := range []*redis.StringCmd{before, after} {
		if err := cmd.Err(); errors.Is(err, redis.Nil) {
			return nil, fmt.Errorf("%w: Redis is being filled", ErrNotReady)
		} else if err != nil {
			return nil, fmt.Errorf("settings in Redis: %w", err)
		}
	}
	if before.Val() != after.Val() {
		return nil, fmt.Errorf("%w: Redis is being filled", ErrNotReady)
	}
	return parseRows(cmds)
}

// isWrongType: a key holds what nothing here writes. That is its own trouble, not Redis's.
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
		version, ok := values[0].(string)
		if !ok {
			continue
		}
		if rows[i].ver, rows[i].err = parseVersion(version); rows[i].err != nil {
			continue
		}
		if doc, ok := values[1].(string); ok {
			rows[i].doc = []byte(doc)
		}
	}
	return rows, nil
}

// write applies changes in their order, in one round trip or more, and returns
// how many it is done with. After an error some more may have been applied; to
// write them again does no harm.
//
// A round trip takes fewer changes after one that failed, and more again after
// those that didn't: a server too slow for a full batch within the client's
// timeout would otherwise never get one done.
func (d *database) write(ctx context.Context, changes []change) (done int, err error) {
	for done < len(changes) {
		size := d.size.Load()
		part := changes[done:min(done+int(size), len(changes))]
		err := d.writeOnce(ctx, part)
		if redis.HasErrorPrefix(err, "NOSCRIPT") {
			// Redis is new or was flushed with its scripts.
			if err := d.apply.Load(ctx, d.rdb).Err(); err != nil {
				return done, fmt.Errorf("loading a script into Redis: %w", err)
			}
			err = d.writeOnce(ctx, part)
		}
		if err != nil {
			d.size.Store(max(size/2, 1))
			return done, fmt.Errorf("writing settings to Redis: %w", err)
		}
		d.size.Store(min(size+size/8+1, batchSize))
		done += len(part)
	}
	return done, nil
}

func (d *database) writeOnce(ctx context.Context, changes []change) error {
	cmds, err := d.rdb.Pipelined(ctx, func(p redis.Pipeliner) error {
		for i := range changes {
			c := &changes[i]
			name, doc := c.stored(d.sealer)
			ttl := int64(0)
			if c.removed {
				ttl = tombstoneKept.Milliseconds()
			}
			d.apply.EvalSha(ctx, p, []string{d.key(name)},
				c.ver.Partition, c.ver.Offset, c.ver.Time, c.ver.String(), ttl, doc)
		}
		return nil
	})
	// Any failure will do, but a missing script is to be told from the others.
	for _, cmd := range cmds {
		if e := cmd.Err(); redis.HasErrorPrefix(e, "NOSCRIPT") {
			return e
		}
	}
	return err
}

// state is what a look at Redis shows.
type state struct {
	ready bool   // the marker stands
	run   string // changes when a server restarts; "" if it isn't told
}

var runID = regexp.MustCompile(`(?m)^run_id:(\w+)`)

// look asks for the marker and for the servers' run ids. A restarted server may
// have come back with an old snapshot, marker included.
func (d *database) look(ctx context.Context) (state, error) {
	n, err := d.rdb.Exists(ctx, d.marker()).Result()
	if err != nil {
		return state{}, fmt.Errorf("the ready marker in Redis: %w", err)
	}
	run, err := d.runs(ctx)
	return state{ready: n > 0, run: run}, err
}

func (d *database) runs(ctx context.Context) (string, error) {
	info := func(ctx context.Context, c redis.Cmdable) (string, error) {
		text, err := c.Info(ctx, "server").Result()
		var reply redis.Error
		if errors.As(err, &reply) {
			return "", nil // it answers, but doesn't tell (no permission, or an imitation)
		}
		if m := runID.FindStringSubmatch(text); m != nil {
			return m[1], err
		}
		return "", err
	}
	cluster, ok := d.rdb.(*redis.ClusterClient)
	if !ok {
		run, err := info(ctx, d.rdb)
		if err != nil {
			return "", fmt.Errorf("asking Redis for its run id: %w", err)
		}
		return run, nil
	}
	var mu sync.Mutex
	var all []string
	err := cluster.ForEachMaster(ctx, func(ctx context.Context, c *redis.Client) error {
		run, err := info(ctx, c)
		mu.Lock()
		all = append(all, run)
		mu.Unlock()
		return err
	})
	if err != nil {
		return "", fmt.Errorf("asking Redis for its run ids: %w", err)
	}
	slices.Sort(all)
	return strings.Join(all, " "), nil
}

// begin leaves a token that a flush takes away.
func (d *database) begin(ctx context.Context) (token string, err error) {
	token = d.marker() + ":" + randomHex(8)
	if err := d.rdb.Set(ctx, token, "", tokenKept).Err(); err != nil {
		return "", fmt.Errorf("beginning to fill Redis: %w", err)
	}
	return token, nil
}

// intact says whether the token is still there.
func (d *database) intact(ctx context.Context, token string) (bool, error) {
	n, err := d.rdb.Exists(ctx, token).Result()
	if err != nil {
		return false, fmt.Errorf("filling Redis: %w", err)
	}
	return n == 1, nil
}

// finish sets the marker; false means that Redis was flushed since begin.
func (d *database) finish(ctx context.Context, token string) (bool, error) {
	n, err := d.mark.Run(ctx, d.rdb, []string{d.marker(), token}, randomHex(8)).Int()
	if err != nil {
		return false, fmt.Errorf("setting the ready marker in Redis: %w", err)
	}
	return n == 1, nil
}

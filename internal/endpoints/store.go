package endpoints

import (
	"context"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/smshooks/smshooks/pkg/webhook"
)

const (
	pipelined = 500  // commands in one round trip
	scanned   = 1000 // fields that one step of a scan asks for
)

// key names an endpoint.
type key struct {
	UserID int64
	Kind   webhook.Kind
}

func (k key) String() string { return strconv.FormatInt(k.UserID, 10) + "/" + k.Kind.String() }

func parseKey(text string) (k key, ok bool) {
	user, kind, _ := strings.Cut(text, "/")
	id, err := strconv.ParseInt(user, 10, 64)
	if err != nil {
		return k, false
	}
	parsed, err := webhook.ParseKind(kind)
	return key{id, parsed}, err == nil
}

// Store holds the states of endpoints in one Redis hash, for all instances. It is safe for concurrent use.
type Store struct {
	rdb  redis.UniversalClient
	hash string
}

// NewStore returns a store whose key begins with prefix.
func NewStore(rdb redis.UniversalClient, prefix string) *Store {
	return &Store{rdb, prefix + "endpoints"}
}

// State is the state of an endpoint.
type State struct {
	URL     uint64          // Fingerprint of the URL that failed; 0 if the endpoint works or it is unknown
	Since   time.Time       // start of the first failed attempt since the last success; zero if the endpoint works
	Failure webhook.Failure // of its last failed attempt, some seconds late; "" if the endpoint works
}

// Fails reports whether the endpoint with URL e fails: a new URL was never called.
func (s *State) Fails(e *webhook.Endpoint) bool {
	return !s.Since.IsZero() && (s.URL == 0 || s.URL == Fingerprint(e))
}

// States returns the states of a user's endpoints.
func (s *Store) States(ctx context.Context, userID int64) (states [webhook.NumKinds]State, err error) {
	fields := make([]string, webhook.NumKinds)
	for i, kind := range webhook.Kinds() {
		fields[i] = key{userID, kind}.String()
	}
	values, err := s.rdb.HMGet(ctx, s.hash, fields...).Result()
	if err != nil {
		return states, fmt.Errorf("read the states of endpoints in Redis: %w", err)
	}
	for i, kind := range webhook.Kinds() {
		if text, ok := values[i].(string); ok {
			f := parse(text).Failing
			states[kind] = State{f.URL, f.Since, f.Failure}
		}
	}
	return states, nil
}

// all returns the text of every endpoint.
func (s *Store) all(ctx context.Context) (map[key]string, error) {
	texts := map[key]string{}
	for cursor := uint64(0); ; {
		pairs, next, err := s.rdb.HScan(ctx, s.hash, cursor, "", scanned).Result()
		if err != nil {
			return nil, fmt.Errorf("read the states of endpoints in Redis: %w", err)
		}
		for pair := range slices.Chunk(pairs, 2) {
			if k, ok := parseKey(pair[0]); ok && len(pair) == 2 {
				texts[k] = pair[1]
			}
		}
		if cursor = next; cursor == 0 {
			return texts, nil
		}
	}
}

// swap is one attempt to replace the text of an endpoint.
type swap struct {
	key
	from, to string
	// current is the text afterwards: to, unless another instance has replaced from.
	current string
	err     error
}

// swapScript sets the field ARGV[1] of KEYS[1] to ARGV[3] if it is ARGV[2], and returns what it is then. "" stands for
// no field. A key of another type was written by another program and is deleted.
var swapScript = redis.NewScript(`
if redis.call('TYPE', KEYS[1])['ok'] ~= 'hash' then redis.call('DEL', KEYS[1]) end
local current = redis.call('HGET', KEYS[1], ARGV[1]) or ''
if current ~= ARGV[2] then return current end
if ARGV[3] == '' then redis.call('HDEL', KEYS[1], ARGV[1]) else redis.call('HSET', KEYS[1], ARGV[1], ARGV[3]) end
return ARGV[3]`)

// swap makes the swaps, in as few round trips as possible, and sets current or err of each. It returns the first error.
func (s *Store) swap(ctx context.Context, swaps []*swap) (first error) {
	for part := range slices.Chunk(swaps, pipelined) {
		cmds := make([]*redis.Cmd, len(part))
		_, err := s.rdb.Pipelined(ctx, func(p redis.Pipeliner) error {
			for i, w := range part {
				cmds[i] = swapScript.Eval(ctx, p, []string{s.hash}, w.key.String(), w.from, w.to)
			}
			return nil
		})
		for i, w := range part {
			w.current, w.err = cmds[i].Text()
		}
		if err != nil && first == nil {
			first = fmt.Errorf("store the states of endpoints in Redis: %w", err)
		}
	}
	return first
}

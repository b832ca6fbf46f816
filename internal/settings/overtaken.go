package settings

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"
	"sync/atomic"

	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/smshooks/smshooks/internal/compacted"
)

// updates are this instance's updates under way, and the records of their users that have been read since.
//
// Updates of a user exclude each other by a lock in Redis, which Redis may lose.
// Then the topic decides: an update whose record follows one that it was not
// based on has overwritten fields, and restores them.
type updates struct {
	n  atomic.Int32
	mu sync.Mutex
	m  map[int64][]*witness
}

// changedHeader lists the fields that an update changed, separated by commas. A
// record of another program has none: it means every field that it has.
const changedHeader = "smshooks-changed"

// witness holds the records of a user that were read since an update began.
type witness struct {
	userID int64
	seen   []intervening
}

// intervening is a document that was read since an update began.
type intervening struct {
	change
	all     bool   // the record does not list the fields that its writer changed
	changed string // the fields changed, see changedHeader
}

// means reports whether its writer may have changed a field.
func (o *intervening) means(field string) bool {
	return o.all || slices.Contains(strings.Split(o.changed, ","), field)
}

// changes returns the names of the fields in which two documents differ.
func changes(before, after Document) string {
	var names []string
	was, is := before.fields(), after.fields()
	for i := range was {
		if !same(*was[i].value, *is[i].value) {
			names = append(names, was[i].name)
		}
	}
	return strings.Join(names, ",")
}

func (u *updates) begin(userID int64) *witness {
	w := &witness{userID: userID}
	u.mu.Lock()
	defer u.mu.Unlock()
	if u.m == nil {
		u.m = map[int64][]*witness{}
	}
	u.m[userID] = append(u.m[userID], w)
	u.n.Add(1)
	return w
}

func (u *updates) end(w *witness) {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.n.Add(-1)
	rest := u.m[w.userID]
	for i := range rest {
		if rest[i] == w {
			rest = append(rest[:i:i], rest[i+1:]...)
			break
		}
	}
	if u.m[w.userID] = rest; len(rest) == 0 {
		delete(u.m, w.userID)
	}
}

// witness is called with every change read from the topics.
func (u *updates) witness(c *change, r *kgo.Record) {
	if u.n.Load() == 0 {
		return
	}
	o := intervening{change: *c, all: true}
	for _, h := range r.Headers {
		if h.Key == changedHeader {
			o.all, o.changed = false, string(h.Value)
		}
	}
	u.mu.Lock()
	defer u.mu.Unlock()
	for _, w := range u.m[c.userID] {
		w.seen = append(w.seen, o)
	}
}

// between returns what was read with versions after from and before to, in order.
func (u *updates) between(w *witness, from, to compacted.Version) (found []intervening) {
	u.mu.Lock()
	defer u.mu.Unlock()
	for _, o := range w.seen {
		if o.locked == nil && o.ver.Newer(from) && to.Newer(o.ver) {
			found = append(found, o)
		}
	}
	return found
}

// overtaken returns the documents between the one that an update was based on and its own record. read is false if they
// cannot be read now: an open transaction holds the reader back.
func (s *Store) overtaken(
	ctx context.Context, w *witness, base, own compacted.Version,
) (between []intervening, read bool, err error) {
	read, err = s.topic.Reader().Await(ctx, own.Partition, own.Offset)
	if err != nil && ctx.Err() != nil {
		err = fmt.Errorf("%w: the record of this update has not been read yet", ErrNotReady)
	}
	if err != nil || !read {
		return nil, false, err
	}
	return s.updates.between(w, base, own), true, nil
}

// restoring returns a change that first restores the fields that other writers changed in between, if they still have
// their values in base, and then applies change.
func restoring(change func(Document) Document, base Document, between []intervening) func(Document) Document {
	put := base
	for _, o := range between {
		was, theirs, to := base.fields(), o.document.fields(), put.fields()
		for i := range was {
			if o.means(was[i].name) && !same(*theirs[i].value, *was[i].value) {
				*to[i].value = *theirs[i].value
			}
		}
		if o.all && o.document.unknown != base.unknown {
			put.unknown = o.document.unknown
		}
	}
	return func(d Document) Document {
		was, theirs, to := base.fields(), put.fields(), d.fields()
		for i := range was {
			if same(*to[i].value, *was[i].value) {
				*to[i].value = *theirs[i].value
			}
		}
		if d.unknown == base.unknown {
			d.unknown = put.unknown
		}
		return change(d)
	}
}

package settings

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"

	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/smshooks/smshooks/internal/compacted"
)

const (
	// resealers is the number of documents rewritten at once.
	resealers = 16
	// resealPasses is the largest number of passes over the topic. After the first pass, only what other writers have
	// written since is left.
	resealPasses = 5
)

// Resealing holds the numbers of documents that Reseal found in the config topic.
type Resealing struct {
	Documents int // users with a document
	Resealed  int // rewritten, or to be rewritten in a dry run
	Current   int // sealed with the current key already
	Bare      int // without credentials
	Locked    int // sealed with a key that is not known; they are not rewritten
}

// Reseal rewrites every document whose credentials are not sealed with the current key: those sealed with a previous
// key and those in clear. It works like Update, so that no concurrent change is lost, and keeps unknown members of
// documents. Documents sealed with the current key are not rewritten, so calling Reseal again is harmless. With dry it
// writes nothing. Run must be running.
func (s *Store) Reseal(ctx context.Context, dry bool) (Resealing, error) {
	if s.cfg.Secrets == nil {
		return Resealing{}, errors.New("secrets.key: not set; set the key to reseal with")
	}
	select {
	case <-s.Loaded():
	case <-ctx.Done():
		return Resealing{}, fmt.Errorf("read topic %s: %w", s.cfg.Topic, ctx.Err())
	}
	resealed := 0
	for range resealPasses {
		found, toDo, err := s.examine(ctx)
		if err != nil {
			return Resealing{Resealed: resealed}, err
		}
		found.Resealed = resealed
		if dry {
			found.Resealed = len(toDo)
			return found, nil
		}
		if len(toDo) == 0 {
			found.Current = max(found.Current-resealed, 0) // a rewritten document may also have a locked secret
			return found, nil
		}
		n, err := s.rewriteAll(ctx, toDo)
		resealed += n
		if err != nil {
			return Resealing{Documents: found.Documents, Resealed: resealed}, err
		}
	}
	return Resealing{Resealed: resealed}, errors.New("other instances still write documents with " +
		"another key: set the same secrets.key on every instance and reseal again")
}

// sealing is the form in which a record's credentials are stored.
type sealing int

const (
	sealedNone    sealing = iota // there are none
	sealedCurrent                // with the current key
	sealedBefore                 // with a previous key, or not at all
	sealedUnknown                // with a key that is not known
)

// sealingOf returns the sealing of a record's value.
func (s *Store) sealingOf(userID int64, value []byte) (sealing, error) {
	d, err := parseDocument(userID, value, s.cfg.Secrets)
	switch {
	case errors.Is(err, errSealed):
		return sealedUnknown, nil
	case err != nil:
		return 0, err
	case d.outdated:
		return sealedBefore, nil
	case (d.Auth == nil || *d.Auth == "") && d.SigningSecrets == nil:
		return sealedNone, nil
	}
	for _, secret := range d.secrets() {
		if _, err := (*Sealer)(nil).Open(userID, secret.text); err != nil {
			return sealedUnknown, nil
		}
	}
	return sealedCurrent, nil
}

// examine reads the topic and returns what it holds, and the documents that are to be rewritten.
func (s *Store) examine(ctx context.Context) (found Resealing, toDo map[int64]compacted.Version, err error) {
	type state struct {
		ver     compacted.Version
		sealing sealing
		removed bool
	}
	r, err := compacted.Open(ctx, s.newClient, s.cfg.Topic)
	if err != nil {
		return found, nil, err
	}
	defer r.Close()
	users := map[int64]state{}
	err = r.ReadAll(ctx, nil, func(record *kgo.Record) error {
		next := state{ver: compacted.VersionOf(record), removed: record.Value == nil}
		userID, err := parseUserKey(record.Key)
		if err == nil && !next.removed {
			next.sealing, err = s.sealingOf(userID, record.Value)
		}
		// Skip an unreadable record: the previous one stays in effect.
		if err == nil && next.ver.Newer(users[userID].ver) {
			users[userID] = next
		}
		return nil
	})
	if err != nil {
		return found, nil, err
	}
	toDo = map[int64]compacted.Version{}
	for userID, u := range users {
		if u.removed {
			continue
		}
		found.Documents++
		switch u.sealing {
		case sealedNone:
			found.Bare++
		case sealedCurrent:
			found.Current++
		case sealedUnknown:
			found.Locked++
		case sealedBefore:
			toDo[userID] = u.ver
		}
	}
	return found, toDo, nil
}

// rewriteAll rewrites documents, several at once, and returns how many. A user whose document has another version by
// now is left to the next pass.
func (s *Store) rewriteAll(ctx context.Context, toDo map[int64]compacted.Version) (n int, err error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	users := make(chan int64)
	var wg sync.WaitGroup
	var mu sync.Mutex
	for range resealers {
		wg.Go(func() {
			for userID := range users {
				w := rewriting{ver: toDo[userID]}
				_, failed := s.update(ctx, userID, func(d Document) Document { return d }, &w)
				mu.Lock()
				if w.written {
					n++
				}
				if failed != nil && err == nil {
					err = fmt.Errorf("reseal the document of user %d: %w", userID, failed)
					cancel()
				}
				mu.Unlock()
			}
		})
	}
	for userID := range toDo {
		select {
		case users <- userID:
		case <-ctx.Done():
		}
	}
	close(users)
	wg.Wait()
	if err == nil {
		err = ctx.Err()
	}
	return n, err
}

// rewriting makes update write a record even if nothing changes.
type rewriting struct {
	ver     compacted.Version // the version to replace; another one is kept
	written bool
}

// wanted reports whether the document with version base is to be rewritten.
func (r *rewriting) wanted(base compacted.Version) bool {
	return r != nil && !r.written && base.Is(r.ver)
}

// String returns the numbers in one line.
func (r Resealing) String() string {
	var parts []string
	for _, p := range []struct {
		n    int
		what string
	}{
		{r.Resealed, "resealed"}, {r.Current, "already current"}, {r.Bare, "without credentials"},
		{r.Locked, "sealed with a key that is neither secrets.key nor in secrets.previous_keys, unchanged"},
	} {
		parts = append(parts, fmt.Sprintf("%d %s", p.n, p.what))
	}
	return fmt.Sprintf("%d documents: %s", r.Documents, strings.Join(parts, ", "))
}

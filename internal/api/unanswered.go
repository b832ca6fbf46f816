package api

import (
	"maps"
	"sync"
	"time"
)

const (
	// unansweredLasts is how long the secret of a failed rotation is kept for the request that repeats it.
	unansweredLasts = 5 * time.Minute
	// maxUnanswered is the number of users whose secrets are kept.
	maxUnanswered = 10_000
)

// unanswered keeps the new secrets of rotations that failed. The secret may be stored although nobody has seen it. If
// the repeated request made another one, the user's document would have two secrets that the receiver does not know
// instead of the one that it knows.
type unanswered struct {
	mu      sync.Mutex
	secrets map[int64]unansweredSecret // by user
}

type unansweredSecret struct {
	text    string
	expires time.Time
}

// take returns the secret of the user's failed rotation and forgets it. It returns "" if there is none.
func (u *unanswered) take(userID int64, now time.Time) string {
	u.mu.Lock()
	defer u.mu.Unlock()
	kept := u.secrets[userID]
	delete(u.secrets, userID)
	if now.Before(kept.expires) {
		return kept.text
	}
	return ""
}

// keep stores the secret of a failed rotation. It drops the secret if too many users have one.
func (u *unanswered) keep(userID int64, secret string, now time.Time) {
	u.mu.Lock()
	defer u.mu.Unlock()
	if len(u.secrets) >= maxUnanswered {
		maps.DeleteFunc(u.secrets, func(_ int64, s unansweredSecret) bool { return !now.Before(s.expires) })
	}
	if len(u.secrets) >= maxUnanswered {
		return
	}
	if u.secrets == nil {
		u.secrets = map[int64]unansweredSecret{}
	}
	u.secrets[userID] = unansweredSecret{secret, now.Add(unansweredLasts)}
}

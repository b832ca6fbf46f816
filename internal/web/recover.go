package web

import (
	"context"
	"errors"
	"net/http"
	"time"

	"github.com/smshooks/smshooks/internal/api"
	"github.com/smshooks/smshooks/internal/api/limit"
)

// recoveryView describes the user's latest recovery.
type recoveryView struct {
	Running        bool
	Started, Ended time.Time
	Events         string // how many it has released so far
}

// recovery reads the latest recovery. It returns nil if there was none, or if it cannot be read now: the rest of the
// view does not need it.
func (p *Page) recovery(ctx context.Context, userID int64) *recoveryView {
	latest, ok, err := p.service.LatestRecovery(ctx, userID)
	if err != nil || !ok {
		return nil
	}
	return &recoveryView{latest.Ended.IsZero(), latest.Started, latest.Ended, plural(int(latest.Released), "event")}
}

// recover sends the user's waiting events now: one, or all.
func (p *Page) recover(w http.ResponseWriter, r *http.Request) {
	s, ok := p.own(w, r, func(status int, text string) { p.views.message(w, status, text) })
	if !ok {
		return
	}
	selected, back := api.Recovery{}, base
	if id := r.PostForm.Get("event"); id != "" {
		selected.IDs, back = []string{id}, eventPath(id)
	}
	_, err := p.service.Recover(r.Context(), s.userID, selected)
	if tooMany, is := errors.AsType[*api.TooManyError](err); is {
		limit.SetRetryAfter(w, tooMany.After)
		p.views.message(w, http.StatusTooManyRequests, textRecovering)
		return
	}
	if err != nil {
		p.views.message(w, http.StatusServiceUnavailable, textUnsent)
		return
	}
	http.Redirect(w, r, back+"?done=recovering", http.StatusSeeOther)
}

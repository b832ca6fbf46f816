package app

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"time"

	"go.uber.org/zap"

	"github.com/smshooks/smshooks/internal/release"
	"github.com/smshooks/smshooks/internal/settings"
	"github.com/smshooks/smshooks/pkg/webhook"
)

// Selection selects the delayed events that an operator releases: those of UserID, of the endpoints on Host, or of all
// users if both are zero.
type Selection struct {
	UserID       int64
	Host         string        // of ParseHost
	Kind         *webhook.Kind // nil: all kinds
	Error        string        // part of the last failure; "": any
	Since, Until time.Time     // bound the time of the event: since ≤ t < until; zero: no bound
}

// ErrNoSuchHost is returned when no user's URL has the host.
var ErrNoSuchHost = errors.New("no URL has this host")

// marker returns the marker that selects what s selects now, and the topics that it examines.
func (a *Admin) marker(ctx context.Context, s Selection) (m release.Marker, topics []string, err error) {
	m = release.Marker{Cause: release.Operator, User: s.UserID, Error: s.Error, Since: s.Since, Until: s.Until}
	kinds := slices.Collect(func(yield func(webhook.Kind) bool) {
		for _, kind := range webhook.Kinds() {
			if (s.Kind == nil || *s.Kind == kind) && !yield(kind) {
				return
			}
		}
	})
	plan := a.cfg.TopicPlan()
	if s.UserID == 0 && s.Host == "" {
		return m, delayed(plan, kinds, func(webhook.Kind) bool { return false }), nil
	}
	users, err := settings.ReadOverviews(ctx, a.kafka.NewClient, a.cfg.Topics.Config)
	if err != nil {
		return m, nil, fmt.Errorf("read topics.config: %w", err)
	}
	if s.UserID != 0 {
		paused := users[s.UserID].Paused
		return m, delayed(plan, kinds, func(kind webhook.Kind) bool { return !paused[kind] }), nil
	}
	if m.Users = usersOn(s.Host, users, kinds); len(m.Users) == 0 {
		return m, nil, fmt.Errorf("--host: %w: %s", ErrNoSuchHost, s.Host)
	}
	return m, delayed(plan, kinds, func(webhook.Kind) bool { return false }), nil
}

// ParseHost returns the name or IP address of a host as URLs have it, in lower case. An IPv6 address may have brackets.
// ok is false for anything else, such as a host with a port.
func ParseHost(text string) (host string, ok bool) {
	if addr, err := netip.ParseAddr(strings.TrimSuffix(strings.TrimPrefix(text, "["), "]")); err == nil {
		return addr.String(), true
	}
	if strings.ContainsAny(text, ":/@ []") {
		return "", false
	}
	return hostOf("http://" + text + "/")
}

// hostOf returns the host of a URL, in the form of ParseHost. ok is false if the URL is not usable.
func hostOf(url string) (host string, ok bool) {
	host = strings.TrimSuffix(strings.ToLower(webhook.NewEndpoint(url).Hostname()), ".")
	if addr, err := netip.ParseAddr(host); err == nil {
		host = addr.String()
	}
	return host, host != ""
}

// usersOn returns the users and kinds of the URLs that have a host.
func usersOn(host string, users map[int64]settings.Overview, kinds []webhook.Kind) map[int64][]string {
	on := map[int64][]string{}
	for userID, o := range users {
		for _, kind := range kinds {
			if other, ok := hostOf(o.URLs[kind]); ok && other == host {
				on[userID] = append(on[userID], kind.String())
			}
		}
	}
	return on
}

// withReleases calls f with the releases known by now.
func (a *Admin) withReleases(ctx context.Context, f func(context.Context, *release.Log) error) error {
	plan := a.cfg.TopicPlan()
	if err := a.mayRead(ctx, plan.Releases); err != nil {
		return err
	}
	log := release.NewLog(release.Config{
		Topic: plan.Releases, Keep: plan.MinRetention(plan.Releases), Now: time.Now,
	}, a.kafka.NewClient, a.log.Named("releases"), noMetrics{})
	running, stop := context.WithCancel(ctx)
	var following sync.WaitGroup
	following.Go(func() { _ = log.Run(running) }) // until it is stopped
	defer func() {
		stop()
		following.Wait()
	}()
	select {
	case <-log.Loaded():
		return f(ctx, log)
	case <-ctx.Done():
		return ctx.Err()
	case <-time.After(resealTimeout):
		return fmt.Errorf("read topics.releases: %w", context.DeadlineExceeded)
	}
}

// CountDelayed returns how many events Release would release.
func (a *Admin) CountDelayed(ctx context.Context, s Selection) (n int64, err error) {
	m, topics, err := a.marker(ctx, s)
	if err != nil {
		return 0, err
	}
	err = a.withReleases(ctx, func(ctx context.Context, log *release.Log) (err error) {
		n, err = log.Count(ctx, m, topics, a.cfg.Kafka.Group, a.cfg.Topics.Epoch, a.cfg.TopicPlan().Describe)
		return err
	})
	return n, err
}

// releasePoll is the interval at which Release checks the progress of a recovery.
const releasePoll = 250 * time.Millisecond

// Release makes the events that s selects due now, and returns their number when it is done. stored receives the ids of
// the recoveries. When all are stored, progress receives the number of events released so far, and whether an instance
// has begun the work. If ctx ends then, the running instances continue, or the next one that starts does the work.
func (a *Admin) Release(
	ctx context.Context, s Selection, stored func(ids []string), progress func(released int64, begun bool),
) (int64, error) {
	m, topics, err := a.marker(ctx, s)
	if err != nil {
		return 0, err
	}
	released := int64(0)
	err = a.withReleases(ctx, func(ctx context.Context, log *release.Log) error {
		ids, err := log.Begin(ctx, m, topics)
		if stored(ids); err != nil {
			return err
		}
		a.log.Debug("recovery stored", zap.Strings("ids", ids))
		for running := true; running; {
			begun := false
			released, running = 0, false
			for _, id := range ids {
				status, known := log.Status(id) // a recovery that copied nothing is forgotten after some time
				released += status.Released
				begun = begun || status.Begun || !known
				running = running || known && status.Ended.IsZero()
			}
			if !running {
				break
			}
			progress(released, begun)
			select {
			case <-ctx.Done():
				return ctx.Err()
			case <-time.After(releasePoll):
			}
		}
		return nil
	})
	return released, err
}

package settings

import (
	"context"

	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/smshooks/smshooks/internal/compacted"
	"github.com/smshooks/smshooks/pkg/webhook"
)

// Overview is the part of a user's settings that can be read without the keys of its secrets.
type Overview struct {
	URLs   [webhook.NumKinds]string // "" = not set
	Paused [webhook.NumKinds]bool
}

// ReadOverviews reads the config topic to its end and returns the overviews of its users. It does not need Redis. It
// skips unreadable records, like the service.
func ReadOverviews(ctx context.Context, newClient compacted.NewClient, topic string) (map[int64]Overview, error) {
	r, err := compacted.Open(ctx, newClient, topic)
	if err != nil {
		return nil, err
	}
	defer r.Close()
	users, versions := map[int64]Overview{}, map[int64]compacted.Version{}
	err = r.ReadAll(ctx, nil, func(record *kgo.Record) error {
		userID, err := parseUserKey(record.Key)
		if err != nil {
			return nil
		}
		var o Overview
		if record.Value != nil {
			if o, err = overviewOf(userID, record.Value); err != nil {
				return nil
			}
		}
		if v := compacted.VersionOf(record); v.Newer(versions[userID]) {
			users[userID], versions[userID] = o, v
			if record.Value == nil {
				delete(users, userID)
			}
		}
		return nil
	})
	return users, err
}

// overviewOf reads a document.
func overviewOf(userID int64, document []byte) (o Overview, err error) {
	members, err := webhook.AppendMembers(nil, document)
	if err != nil {
		return o, err
	}
	d, err := parseSealed(userID, members)
	if err != nil {
		return o, err
	}
	for kind, url := range [webhook.NumKinds]*string{
		webhook.DLR: d.DLRURL, webhook.Click: d.ClickURL, webhook.Inbound: d.InboundURL,
		webhook.RevokeClick: d.RevokeClickURL,
	} {
		o.URLs[kind], o.Paused[kind] = value(url), d.IsPaused(webhook.Kind(kind))
	}
	return o, nil
}

package api

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"time"

	"github.com/smshooks/smshooks/internal/settings"
	"github.com/smshooks/smshooks/pkg/webhook"
)

const (
	newSecretBytes = 32
	// The time for which the previous secret stays valid.
	defaultGrace = 24 * time.Hour
	maxGrace     = 168 * time.Hour
)

// RotateSecret creates a new signing secret for the user. It returns the secret, which is not shown again, and the time
// until which the previous one is valid, nil if there is none. After an error the secret may be stored nevertheless,
// and the next call for the user returns it instead of another one.
func (s *Service) RotateSecret(ctx context.Context, userID int64,
	grace time.Duration) (secret string, previousUntil *string, err error) {
	fresh := newSecret()
	return s.rotate(ctx, userID, grace, func(*settings.Document) string { return fresh })
}

// rotate is RotateSecret with a function that returns the new secret.
func (s *Service) rotate(ctx context.Context, userID int64, grace time.Duration,
	next func(*settings.Document) string) (secret string, previousUntil *string, err error) {
	now := time.Now()
	kept := s.unanswered.take(userID, now)
	secret = kept
	d, err := s.update(ctx, userID, func(d settings.Document) settings.Document {
		if secret = kept; kept == "" {
			secret = next(&d)
		}
		return d.Rotate(secret, now, grace)
	})
	if err != nil {
		if secret != "" { // else nothing was stored
			s.unanswered.keep(userID, secret, time.Now())
		}
		return "", nil, err
	}
	return secret, d.PreviousUntil(), nil
}

// An Offer is a secret that a form offers as the next one. So a form that is sent twice makes one rotation: a second
// one would end the secret that the receiver knows. It must be kept from everyone but the server.
type Offer struct {
	Secret string
	After  string // fingerprint of the newest secret when the form was made
}

// Offer returns a new secret for a form that shows f.
func (f *Further) Offer() Offer { return Offer{newSecret(), f.newest} }

// TakeOffer is RotateSecret with the secret of an offer. If there was another rotation since the offer was made, it
// creates a further secret.
func (s *Service) TakeOffer(ctx context.Context, userID int64, offer Offer,
	grace time.Duration) (secret string, previousUntil *string, err error) {
	fresh := newSecret()
	return s.rotate(ctx, userID, grace, func(d *settings.Document) string {
		if newest := d.NewestSecret(); newest == offer.Secret || fingerprint(newest) == offer.After {
			return offer.Secret
		}
		return fresh
	})
}

func newSecret() string {
	key := make([]byte, newSecretBytes)
	rand.Read(key) // never fails: see crypto/rand
	return webhook.NewSecret(key)
}

// fingerprint tells secrets apart; "" for none.
func fingerprint(secret string) string {
	if secret == "" {
		return ""
	}
	sum := sha256.Sum256([]byte(secret))
	return hex.EncodeToString(sum[:8])
}

// ClearSecret ends the signing of the user's requests.
func (s *Service) ClearSecret(ctx context.Context, userID int64) error {
	_, err := s.update(ctx, userID, func(d settings.Document) settings.Document { d.SigningSecrets = nil; return d })
	return err
}

func (h *handler) rotateSecret(r *request) (any, error) {
	grace := defaultGrace
	text, problem := r.params.Text("grace")
	if text != nil && *text != "" {
		var err error
		if grace, err = time.ParseDuration(*text); err != nil || grace < 0 || grace > maxGrace {
			problem = "must be a duration from 0s to 168h, as in 24h or 1h30m"
		}
	}
	if problem != "" {
		return nil, &InvalidError{[]FieldError{{"grace", problem}}}
	}
	secret, until, err := h.service.RotateSecret(r.quick, r.userID, grace)
	if err != nil {
		return nil, err
	}
	return rotateReply{secret, until}, nil
}

func (h *handler) clearSecret(r *request) (any, error) {
	if err := h.service.ClearSecret(r.quick, r.userID); err != nil {
		return nil, err
	}
	return clearReply{}, nil
}

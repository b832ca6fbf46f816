package api

import (
	"context"
	"time"

	"github.com/smshooks/smshooks/internal/settings"
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
	now := time.Now()
	secret = s.unanswered.take(userID, now)
	d, err := s.update(ctx, userID, func(d settings.Document) settings.Document { return d.Rotate(secret, now, grace) })
	if err != nil {
		s.unanswered.keep(userID, secret, time.Now())
		return "", nil, err
	}
	return secret, d.PreviousUntil(), nil
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

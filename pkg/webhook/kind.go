package webhook

import "fmt"

// Kind is the type of an event. A user has one URL per kind.
type Kind uint8

// The kinds, in the order in which settings and replies list them.
const (
	DLR         Kind = iota // a delivery receipt
	Click                   // a click on a link of a message
	Inbound                 // a received message
	RevokeClick             // clicks that turned out to be a bot's
)

// NumKinds is the number of kinds, for arrays that are indexed by kind.
const NumKinds = 4

// String returns the name of the kind in headers, metrics and settings.
func (k Kind) String() string {
	switch k {
	case DLR:
		return "dlr"
	case Click:
		return "click"
	case Inbound:
		return "inbound"
	case RevokeClick:
		return "revoke_click"
	}
	return "unknown"
}

// ParseKind returns the kind with the given name. It is the inverse of [Kind.String].
func ParseKind(s string) (Kind, error) {
	for _, k := range Kinds() {
		if k.String() == s {
			return k, nil
		}
	}
	return 0, fmt.Errorf("kind %.32q: must be dlr, click, inbound or revoke_click", s)
}

// Kinds returns all kinds in their order.
func Kinds() [NumKinds]Kind { return [NumKinds]Kind{DLR, Click, Inbound, RevokeClick} }

// ContentType returns the Content-Type of the kind's request.
func (k Kind) ContentType() string {
	if k == RevokeClick {
		return "application/json"
	}
	return "application/x-www-form-urlencoded"
}

// HasWindow reports whether an event of the kind can become too old to be sent.
func (k Kind) HasWindow() bool { return k != RevokeClick }

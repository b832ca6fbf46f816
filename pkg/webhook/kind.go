package webhook

import "fmt"

// Kind is what a record is about; each kind has a URL of its own per user.
type Kind uint8

// The kinds, in the order in which settings and replies list them.
const (
	DLR Kind = iota
	Click
	Inbound
	RevokeClick
)

// NumKinds is the number of kinds; kinds index arrays of that length.
const NumKinds = 4

// String returns the kind's name as in headers, metrics and settings.
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

// ParseKind is the inverse of Kind.String; another text is an error.
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

// HasWindow says whether an event of the kind may become too old to be sent.
func (k Kind) HasWindow() bool { return k != RevokeClick }

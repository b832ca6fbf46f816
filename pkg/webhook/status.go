package webhook

import (
	"errors"
	"slices"
	"strings"
)

// Statuses is a set of the values that sms.dlr_status may have. The zero set stands for all of them.
type Statuses uint8

// statusNames are the statuses of a receipt.
var statusNames = [...]string{"Delivered", "Pending", "Failed", "Rejected", "Expired", "Unknown"}

// StatusNames returns the values that sms.dlr_status may have, in the contract's order.
func StatusNames() []string { return slices.Clone(statusNames[:]) }

var errNotStatus = errors.New("must be a list of " + strings.Join(statusNames[:len(statusNames)-1], ", ") +
	" or Unknown")

// ParseStatuses returns the set of at least one status. The error's text starts with "must" and does not contain a
// name.
func ParseStatuses(names []string) (set Statuses, err error) {
	for _, name := range names {
		one := statusOf([]byte(name))
		if one == 0 {
			return 0, errNotStatus
		}
		set |= one
	}
	if set == 0 {
		return 0, errNotStatus
	}
	return set, nil
}

func statusOf(name []byte) Statuses {
	for i, known := range statusNames {
		if string(name) == known {
			return 1 << i
		}
	}
	return 0
}

// HasStatus reports whether the receipt's sms.dlr_status is in the set. value must be the one that m was decoded from.
func (m *Message) HasStatus(value []byte, set Statuses) bool {
	if set == 0 {
		return true
	}
	text := m.fields[fieldDLRStatus].of(value)
	if len(text) == 0 || text[0] != '"' {
		return false
	}
	var buf [longestName]byte
	return set&statusOf(plainKey(text[1:len(text)-1], buf[:])) != 0
}

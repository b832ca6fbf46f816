package webhook

import (
	"strconv"
	"unicode/utf8"
)

// Revocation is a decoded revoke_click record or batch. The ids are decimal texts and share memory with the value that
// it was decoded from.
type Revocation struct {
	UserID                    int64
	APISMSIDs, CampaignSMSIDs [][]byte
}

// DecodeRevocation decodes the value of a revocation record into r and reuses the memory of r's lists. Either list may
// be absent, null, empty or a single id. The error is an [*InvalidError]; r.UserID is then the user's id if that could
// be read, else 0.
func DecodeRevocation(value []byte, r *Revocation) error {
	r.UserID, r.APISMSIDs, r.CampaignSMSIDs = 0, r.APISMSIDs[:0], r.CampaignSMSIDs[:0]
	if !utf8.Valid(value) {
		return invalid("not UTF-8")
	}
	s := scanner{data: value}
	if s.peek() != '{' {
		if _, ok := s.value(0); !ok || !s.atEnd() {
			return s.fault()
		}
		return invalid("not a JSON object")
	}
	s.pos++
	var user span
	badAPI, badCampaign, ok := s.revocation(r, &user)
	if !ok || !s.atEnd() {
		return s.fault()
	}
	if reason := readUser(value, user, &r.UserID); reason != "" {
		return invalid(reason)
	}
	if badAPI {
		return invalid("api_sms_ids contains a value that is not an integer")
	}
	if badCampaign {
		return invalid("campaign_sms_ids contains a value that is not an integer")
	}
	return nil
}

// revocation scans the members of the outermost object. Only the end shows whether a list is bad: if a key is repeated,
// its last value counts.
func (s *scanner) revocation(r *Revocation, user *span) (badAPI, badCampaign, ok bool) {
	var buf [longestName]byte
	for first := true; ; first = false {
		key, more, ok := s.key(first)
		if !more || !ok {
			return badAPI, badCampaign, ok
		}
		switch string(plainKey(key, buf[:])) {
		case "user_id":
			*user, ok = s.value(1)
		case "api_sms_ids":
			r.APISMSIDs, badAPI, ok = s.ids(r.APISMSIDs[:0])
		case "campaign_sms_ids":
			r.CampaignSMSIDs, badCampaign, ok = s.ids(r.CampaignSMSIDs[:0])
		default:
			_, ok = s.value(1)
		}
		if !ok {
			return false, false, false
		}
	}
}

// ids scans a list of ids, a single id or null, and appends the ids to dst.
func (s *scanner) ids(dst [][]byte) (ids [][]byte, bad, ok bool) {
	if s.peek() != '[' {
		at, ok := s.value(1)
		if !ok {
			return dst, true, false
		}
		text := at.of(s.data)
		if text[0] == 'n' {
			return dst, false, true
		}
		return append(dst, text), !isInteger(text), true
	}
	s.pos++
	for first := true; ; first = false {
		more, ok := s.elem(first)
		if !more || !ok {
			return dst, bad, ok
		}
		at, ok := s.value(2)
		if !ok {
			return dst, bad, false
		}
		if text := at.of(s.data); isInteger(text) {
			dst = append(dst, text)
		} else {
			bad = true
		}
	}
}

// maxID is the most digits that a revoked id can have. A batch must fit into one record.
const maxID = 1000

// isInteger reports whether a valid JSON value is a number without fraction and exponent, of at most maxID bytes.
func isInteger(text []byte) bool {
	if len(text) > maxID {
		return false
	}
	for i, c := range text {
		if c-'0' > 9 && (c != '-' || i > 0) {
			return false
		}
	}
	return true
}

// Count returns the number of ids in both lists.
func (r *Revocation) Count() int { return len(r.APISMSIDs) + len(r.CampaignSMSIDs) }

// AppendBody appends the JSON body of the batch's request.
func (r *Revocation) AppendBody(dst []byte) []byte {
	dst = append(dst, `{"event":"clicks_revoked","count":`...)
	dst = strconv.AppendInt(dst, int64(r.Count()), 10)
	return r.appendLists(dst)
}

// AppendRecord appends the batch as the value of a record. [DecodeRevocation] reads it back.
func (r *Revocation) AppendRecord(dst []byte) []byte {
	dst = append(dst, `{"user_id":`...)
	dst = strconv.AppendInt(dst, r.UserID, 10)
	return r.appendLists(dst)
}

func (r *Revocation) appendLists(dst []byte) []byte {
	dst = append(dst, `,"api_sms_ids":`...)
	dst = appendIDs(dst, r.APISMSIDs)
	dst = append(dst, `,"campaign_sms_ids":`...)
	dst = appendIDs(dst, r.CampaignSMSIDs)
	return append(dst, '}')
}

func appendIDs(dst []byte, ids [][]byte) []byte {
	dst = append(dst, '[')
	for i, id := range ids {
		if i > 0 {
			dst = append(dst, ',')
		}
		dst = append(dst, id...)
	}
	return append(dst, ']')
}

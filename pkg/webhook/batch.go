package webhook

// MaxBatchBytes bounds the total length of a batch's ids, so that it fits into a delay topic: topics accept 2 MiB.
const MaxBatchBytes = 512 << 10

// Batches merges one user's revocations into batches of at most maxIDs ids and [MaxBatchBytes]. Each id occurs once in
// its list, in the order of first occurrence. The batches share memory with their input.
func Batches(revocations []Revocation, maxIDs int) (batches []Revocation) {
	var all Revocation
	seenAPI, seenCampaign := map[string]struct{}{}, map[string]struct{}{}
	for i := range revocations {
		r := &revocations[i]
		all.UserID = r.UserID
		all.APISMSIDs = appendNew(all.APISMSIDs, r.APISMSIDs, seenAPI)
		all.CampaignSMSIDs = appendNew(all.CampaignSMSIDs, r.CampaignSMSIDs, seenCampaign)
	}
	for all.Count() > 0 {
		one, room := Revocation{UserID: all.UserID}, room{maxIDs, MaxBatchBytes}
		one.APISMSIDs, all.APISMSIDs = room.take(all.APISMSIDs)
		one.CampaignSMSIDs, all.CampaignSMSIDs = room.take(all.CampaignSMSIDs)
		batches = append(batches, one)
	}
	return batches
}

func appendNew(list, ids [][]byte, seen map[string]struct{}) [][]byte {
	for _, id := range ids {
		if _, ok := seen[string(id)]; !ok {
			seen[string(id)] = struct{}{}
			list = append(list, id)
		}
	}
	return list
}

// room is the space left in a batch.
type room struct{ ids, bytes int }

// take returns the ids that fit, at least one if the batch is empty, and the others.
func (r *room) take(ids [][]byte) (taken, left [][]byte) {
	n := 0
	for n < len(ids) && r.ids > 0 && (r.bytes >= len(ids[n]) || r.bytes == MaxBatchBytes) {
		r.ids--
		r.bytes -= len(ids[n])
		n++
	}
	return ids[:n:n], ids[n:]
}

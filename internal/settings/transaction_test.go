package settings

import (
	"strconv"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/smshooks/smshooks/pkg/webhook"
)

// TestLostBehindTransaction checks that an acknowledged update counts although Redis has lost it and an open transaction
// holds its record back: on the instance that made it, and as the base of another one's update.
func TestLostBehindTransaction(t *testing.T) {
	k := newEnv(t)
	k.options = []kgo.Opt{kgo.FetchIsolationLevel(kgo.ReadCommitted())}
	k.write("1", `{"user_id":1,"dlr_url":"http://before","inbound_url":"http://inbound"}`)
	a, _, _ := k.start(small)
	b, _, _ := k.start(small)
	waitLoaded(t, a, b)
	writer := k.open(kgo.TransactionalID("open"))
	if err := writer.BeginTransaction(); err != nil {
		t.Fatal(err)
	}
	for user := 91; user < 97; user++ { // in all partitions
		open := &kgo.Record{Topic: k.topic, Key: strconv.AppendInt(nil, int64(user), 10), Value: []byte(`{}`)}
		if err := writer.ProduceSync(t.Context(), open).FirstErr(); err != nil {
			t.Fatal(err)
		}
	}
	if d, err := a.Update(t.Context(), 1, setDLR("http://a")); err != nil || value(d.DLRURL) != "http://a" {
		t.Fatalf("%s, %v", d.AppendJSON(nil, nil), err)
	}
	if err := k.rdb.FlushAll(t.Context()).Err(); err != nil {
		t.Fatal(err)
	}

	if d, err := b.Update(t.Context(), 1, setClick("http://click")); err != nil || value(d.DLRURL) != "http://a" {
		t.Errorf("another instance changes %s, %v", d.AppendJSON(nil, nil), err)
	}
	eventually(t, 5*time.Second, "the settings in memory", func() bool { return a.Load(t.Context(), []int64{1}) == nil })
	if set, ok := a.Lookup(1); !ok || set.Endpoints[webhook.DLR] == nil {
		t.Errorf("events of the user are not configured: %v, %v", set, ok)
	}
	if d, _, err := a.Document(t.Context(), 1); err != nil || value(d.DLRURL) != "http://a" || value(d.ClickURL) != "http://click" {
		t.Errorf("the first instance answers %s, %v", d.AppendJSON(nil, nil), err)
	}
	if err := writer.EndTransaction(t.Context(), kgo.TryAbort); err != nil {
		t.Fatal(err)
	}
	for _, s := range []*Store{a, b} {
		eventually(t, 5*time.Second, "the acknowledged settings", func() bool {
			d, _, err := s.Document(t.Context(), 1)
			return err == nil && value(d.DLRURL) == "http://a" && value(d.InboundURL) == "http://inbound" && value(d.ClickURL) == "http://click"
		})
	}
}

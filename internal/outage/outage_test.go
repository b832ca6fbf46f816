package outage

import (
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
	"go.uber.org/zap/zaptest/observer"
)

func TestOutage(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		core, lines := observer.New(zapcore.InfoLevel)
		o := New(zap.New(core), "cannot fly", "flies again")
		o.Recover()
		for range 2 {
			for range 3 {
				o.Fail(errors.New("no wings"), zap.Int("birds", 2))
				time.Sleep(time.Second)
			}
			o.Recover()
			o.Recover()
		}
		got := lines.TakeAll()
		if len(got) != 4 {
			t.Fatalf("%d lines, want a beginning and an end for each of two outages: %v", len(got), got)
		}
		if f := got[0].ContextMap(); got[0].Message != "cannot fly" || got[0].Level != zapcore.WarnLevel || f["error"] != "no wings" || f["birds"] != int64(2) {
			t.Errorf("beginning: %+v", got[0])
		}
		if f := got[3].ContextMap(); got[3].Message != "flies again" || f["after"] != 3*time.Second || f["failed"] != int64(3) {
			t.Errorf("end: %+v", got[3])
		}
	})
}

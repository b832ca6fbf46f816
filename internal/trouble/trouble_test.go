package trouble

import (
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
	"go.uber.org/zap/zaptest/observer"
)

func TestTrouble(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		core, lines := observer.New(zapcore.InfoLevel)
		tr := New(zap.New(core), "cannot fly", "flies again")
		tr.Over()
		for range 2 {
			for range 3 {
				tr.Met(errors.New("no wings"), zap.Int("birds", 2))
				time.Sleep(time.Second)
			}
			tr.Over()
			tr.Over()
		}
		got := lines.TakeAll()
		if len(got) != 4 {
			t.Fatalf("%d lines, want a beginning and an end for each of two troubles: %v", len(got), got)
		}
		if f := got[0].ContextMap(); got[0].Message != "cannot fly" || got[0].Level != zapcore.WarnLevel || f["error"] != "no wings" || f["birds"] != int64(2) {
			t.Errorf("beginning: %+v", got[0])
		}
		if f := got[3].ContextMap(); got[3].Message != "flies again" || f["after"] != 3*time.Second || f["failed"] != int64(3) {
			t.Errorf("end: %+v", got[3])
		}
	})
}

package replay

import (
	"context"
	"errors"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/alicebob/miniredis/v2"
	"github.com/alicebob/miniredis/v2/server"
	"github.com/redis/go-redis/v9"
	"go.uber.org/zap"
	"go.uber.org/zap/zaptest/observer"
)

func newMemory(t *testing.T, limit int) (*Memory, *miniredis.Miniredis) {
	t.Helper()
	mini := miniredis.RunT(t)
	rdb := redis.NewClient(&redis.Options{Addr: mini.Addr()})
	t.Cleanup(func() { rdb.Close() })
	return New(Config{KeyPrefix: "p:", Keep: 25 * time.Hour, Limit: limit}, rdb, zap.NewNop()), mini
}

func claim(t *testing.T, m *Memory, letters ...Letter) []bool {
	t.Helper()
	free, err := m.Claim(t.Context(), letters)
	if err != nil && !errors.Is(err, ErrUnconfirmed) {
		t.Fatal(err)
	}
	return free
}

func TestClaim(t *testing.T) {
	m, mini := newMemory(t, 0)
	a, b := Letter{42, "evt_a", 3, 10, 100}, Letter{42, "evt_b", 3, 11, 100}
	if free := claim(t, m, a, b); !slices.Equal(free, []bool{true, true}) {
		t.Fatalf("%v: nothing is under way yet", free)
	}
	if err := m.Stored(t.Context(), []Letter{a, b}); err != nil {
		t.Fatal(err)
	}
	if free := claim(t, m, a, b, Letter{43, "evt_a", 3, 10, 100}); !slices.Equal(free, []bool{false, false, true}) {
		t.Fatalf("%v: a and b are under way, and another user's are not", free)
	}
	if free := claim(t, m, Letter{42, "evt_a", 3, 120, 130}); !free[0] {
		t.Error("an event that died again cannot be replayed")
	}
	m.Ended(42, "evt_b")
	ctx, stop := context.WithCancel(t.Context())
	defer stop()
	go m.Run(ctx)
	for mini.Exists("p:replay:{42}:event:evt_b") {
		time.Sleep(time.Millisecond)
	}
	if free := claim(t, m, b); !free[0] {
		t.Error("an event whose replay has ended cannot be replayed")
	}
	if err := m.Release(t.Context(), []Letter{b}); err != nil {
		t.Fatal(err)
	}
	if free := claim(t, m, b); !free[0] {
		t.Error("a released claim still holds")
	}
	if free, err := m.Claim(t.Context(), []Letter{a, b}); !errors.Is(err, ErrUnconfirmed) || free[0] || free[1] {
		t.Errorf("%v, %v: the claim of b is not confirmed", free, err)
	}
	mini.FastForward(claimed + time.Second) // its process ended
	if free, err := m.Claim(t.Context(), []Letter{a, b}); err != nil || free[0] || !free[1] {
		t.Errorf("%v, %v: a claim that was not confirmed holds for ever, or one that was does not", free, err)
	}
}

// TestRefund checks that events which were not sent can be sent in the same hour, whatever minute they were taken in.
func TestRefund(t *testing.T) {
	m, _ := newMemory(t, 100)
	now := time.Now()
	spend := func(wanted, want int, at time.Time) {
		t.Helper()
		if n, _, err := m.Spend(t.Context(), 42, wanted, at); err != nil || n != want {
			t.Errorf("%d granted, %v; want %d", n, err, want)
		}
	}
	spend(60, 60, now)
	spend(60, 40, now.Add(time.Minute))
	if err := m.Refund(t.Context(), 42, 70, now.Add(2*time.Minute)); err != nil {
		t.Fatal(err)
	}
	spend(100, 70, now.Add(2*time.Minute))
	spend(1, 0, now.Add(2*time.Minute))
	spend(100, 30, now.Add(61*time.Minute)) // what was taken in the first minute and not given back
}

// TestClaimWithoutADeadLetter checks that an event is not sent from its source record while any replay of it is under
// way: no dead letter shows that the replay has ended.
func TestClaimWithoutADeadLetter(t *testing.T) {
	letter, source := Letter{42, "evt_a", 3, 10, 100}, Letter{42, "evt_a", -1, -1, 0}
	for _, first := range []Letter{letter, source} {
		m, _ := newMemory(t, 0)
		if free := claim(t, m, first); !free[0] {
			t.Fatal("nothing is under way yet")
		}
		if free := claim(t, m, source, letter); free[0] || free[1] {
			t.Errorf("after %+v: %v, the event is under way", first, free)
		}
	}
}

// TestEndedBeforeStored checks that a replay stays forgotten if its event is settled before the last one of many is
// stored.
func TestEndedBeforeStored(t *testing.T) {
	m, _ := newMemory(t, 0)
	a, b := Letter{42, "evt_a", 3, 10, 100}, Letter{42, "evt_b", 3, 11, 100}
	claim(t, m, a, b)
	if err := m.forget(t.Context(), []string{m.event(42, "evt_a")}); err != nil {
		t.Fatal(err)
	}
	if err := m.Stored(t.Context(), []Letter{a, b}); err != nil {
		t.Fatal(err)
	}
	if free := claim(t, m, a, b); !slices.Equal(free, []bool{true, false}) {
		t.Errorf("%v: a has ended, b is under way", free)
	}
}

// TestEndedBeforeStop checks that replays which end before the stop are removed, also if Redis could not be reached, and
// that the stop does not wait for a Redis that fails.
func TestEndedBeforeStop(t *testing.T) {
	m, mini := newMemory(t, 0)
	letters := make([]Letter, 2*batch+7)
	for i := range letters {
		letters[i] = Letter{42, strconv.Itoa(i), -1, -1, 0}
	}
	claim(t, m, letters...)
	if err := m.Stored(t.Context(), letters); err != nil {
		t.Fatal(err)
	}
	run := func(letters []Letter) (stop func()) {
		for _, l := range letters {
			m.Ended(l.UserID, l.ID)
		}
		ctx, cancel := context.WithCancel(t.Context())
		ended := make(chan struct{})
		go func() { defer close(ended); m.Run(ctx) }()
		return func() { cancel(); <-ended }
	}
	core, failures := observer.New(zap.WarnLevel)
	m.log = zap.New(core)
	mini.SetError("LOADING")
	stop := run(letters[:1])
	for failures.Len() == 0 {
		time.Sleep(time.Millisecond)
	}
	mini.SetError("")
	stop()
	if free := claim(t, m, letters[:2]...); !slices.Equal(free, []bool{true, false}) {
		t.Errorf("%v: the first has ended, the second is under way", free)
	}
	mini.SetError("LOADING")
	run(letters[1:2])()
	mini.SetError("")
	if free := claim(t, m, letters[1]); free[0] {
		t.Error("a replay is removed although Redis failed")
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	for _, l := range letters {
		m.Ended(l.UserID, l.ID)
	}
	m.Run(ctx)
	if free := claim(t, m, letters...); slices.Contains(free, false) {
		t.Error("some replays that have ended cannot be replayed")
	}
}

func TestClaimMany(t *testing.T) {
	m, _ := newMemory(t, 0)
	var letters []Letter
	for i := range 2*batch + 7 {
		letters = append(letters, Letter{42, strconv.Itoa(i), 0, int64(i), 5000})
	}
	if free := claim(t, m, letters...); slices.Contains(free, false) || len(free) != len(letters) {
		t.Fatal("not all are free")
	}
	if err := m.Stored(t.Context(), letters); err != nil {
		t.Fatal(err)
	}
	if free := claim(t, m, letters...); slices.Contains(free, true) {
		t.Fatal("some are not under way")
	}
}

func TestSpend(t *testing.T) {
	m, _ := newMemory(t, 100)
	now := time.Unix(1_800_000_000, 0)
	spend := func(user int64, wanted, want int) time.Duration {
		t.Helper()
		granted, after, err := m.Spend(t.Context(), user, wanted, now)
		if err != nil || granted != want {
			t.Errorf("granted %d, %v; want %d", granted, err, want)
		}
		return after
	}
	spend(42, 60, 60)
	now = now.Add(20 * time.Minute)
	spend(42, 60, 40)
	spend(43, 60, 60)
	if after := spend(42, 1, 0); after < 40*time.Minute || after > 42*time.Minute {
		t.Errorf("more after %v, want 40 minutes", after)
	}
	now = now.Add(42 * time.Minute)
	spend(42, 100, 60)
	spend(42, 1, 0)
}

// TestBudgetIsBounded checks that minutes which no longer count are deleted, and the others are not.
func TestBudgetIsBounded(t *testing.T) {
	m, mini := newMemory(t, 1000)
	now := time.Unix(1_800_000_000, 0)
	for _, pause := range []time.Duration{time.Minute, 7 * time.Minute, 30 * time.Minute, 61 * time.Minute} {
		for range 100 {
			if _, _, err := m.Spend(t.Context(), 42, 1, now); err != nil {
				t.Fatal(err)
			}
			now = now.Add(pause)
			mini.FastForward(pause)
		}
		fields, err := mini.HKeys("p:replay:{42}:budget")
		if want := int(60*time.Minute/pause) + 1; err != nil || len(fields) != want {
			t.Errorf("every %v: %d minutes are kept, %v, want %d", pause, len(fields), err, want)
		}
	}
}

func TestBegin(t *testing.T) {
	m, mini := newMemory(t, 0)
	begin := func(user int64, want bool) func() {
		t.Helper()
		end, ok, err := m.Begin(t.Context(), "scan", user)
		if err != nil || ok != want {
			t.Fatalf("%v, %v; want %v", ok, err, want)
		}
		return end
	}
	end := begin(42, true)
	begin(42, false)
	begin(43, true)()
	end()
	end = begin(42, true)
	for mini.FastForward(turn - time.Second); mini.TTL("p:replay:{42}:scan") < turn; { // it is renewed
		time.Sleep(time.Millisecond)
	}
	mini.FastForward(turn)
	other := begin(42, true) // the first one was not renewed for too long
	end()
	begin(42, false)
	other()
}

// hook sends each command twice, as the client does after a timeout, and loses answers.
type hook struct{ twice, lost bool }

func (h *hook) DialHook(next redis.DialHook) redis.DialHook { return next }
func (h *hook) ProcessPipelineHook(next redis.ProcessPipelineHook) redis.ProcessPipelineHook {
	return func(ctx context.Context, cmds []redis.Cmder) error {
		if h.twice {
			_ = next(ctx, cmds)
		}
		return next(ctx, cmds)
	}
}

func (h *hook) ProcessHook(next redis.ProcessHook) redis.ProcessHook {
	return func(ctx context.Context, cmd redis.Cmder) error {
		err := next(ctx, cmd)
		if h.twice {
			err = next(ctx, cmd)
		}
		if h.lost {
			err = context.DeadlineExceeded
			cmd.SetErr(err)
		}
		return err
	}
}

// TestClaimAskedTwice checks that a request which the client repeats is not refused because of its own claim.
func TestClaimAskedTwice(t *testing.T) {
	m, _ := newMemory(t, 0)
	m.rdb.AddHook(&hook{twice: true})
	a := Letter{42, "evt_a", 3, 10, 100}
	if free := claim(t, m, a); !free[0] {
		t.Error("the event is not under way")
	}
	if free := claim(t, m, a, Letter{42, "evt_a", 3, 99, 100}); slices.Contains(free, true) {
		t.Error("the event is under way")
	}
	if free := claim(t, m, Letter{42, "evt_a", 3, 100, 120}); !free[0] {
		t.Error("the event has died again")
	}
}

// TestBeginUnanswered checks that a turn which Redis granted without an answer is free again soon, and that a request
// which the client repeats is not refused because of itself.
func TestBeginUnanswered(t *testing.T) {
	m, mini := newMemory(t, 0)
	h := &hook{twice: true}
	m.rdb.AddHook(h)
	end, ok, err := m.Begin(t.Context(), "scan", 42)
	if err != nil || !ok {
		t.Fatalf("the client asked twice: %v, %v", ok, err)
	}
	end()
	h.lost = true
	if _, ok, err = m.Begin(t.Context(), "scan", 42); err == nil || ok || !mini.Exists("p:replay:{42}:scan") {
		t.Fatalf("without an answer: %v, %v", ok, err)
	}
	h.lost = false
	mini.FastForward(turn)
	if end, ok, err = m.Begin(t.Context(), "scan", 42); err != nil || !ok {
		t.Fatalf("%v, %v", ok, err)
	}
	end()
}

// TestErrorBehindAMissingKey checks that the redis.Nil of one command does not hide the error of a later one.
func TestErrorBehindAMissingKey(t *testing.T) {
	m, mini := newMemory(t, 0)
	mini.Server().SetPreHook(func(c *server.Peer, _ string, args ...string) bool {
		fails := len(args) > 0 && strings.HasSuffix(args[0], "evt_b")
		if fails {
			c.WriteError("OOM command not allowed when used memory > 'maxmemory'.")
		}
		return fails
	})
	letters := []Letter{{42, "evt_a", 3, 10, 100}, {42, "evt_b", 3, 11, 100}}
	if err := m.Stored(t.Context(), letters); err == nil {
		t.Error("stored without an error")
	}
	if free, err := m.Claim(t.Context(), letters); err == nil || errors.Is(err, ErrUnconfirmed) {
		t.Errorf("claimed %v, %v", free, err)
	}
}

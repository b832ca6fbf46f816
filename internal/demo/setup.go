package demo

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"slices"
	"strconv"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/twmb/franz-go/pkg/kgo"
	"go.uber.org/zap"

	"github.com/smshooks/smshooks/internal/apikey"
	"github.com/smshooks/smshooks/internal/app"
	"github.com/smshooks/smshooks/internal/embedded"
	"github.com/smshooks/smshooks/internal/kafka"
	"github.com/smshooks/smshooks/internal/settings"
	"github.com/smshooks/smshooks/internal/topics"
	"github.com/smshooks/smshooks/pkg/webhook"
)

const (
	readyTime  = 60 * time.Second // for the service to become ready
	askTime    = 10 * time.Second // for reading offsets from Kafka
	probePause = 50 * time.Millisecond
)

// setup is everything that runs in a demo.
type setup struct {
	Options
	began    time.Time
	plan     *topics.Plan
	client   *kgo.Client
	registry *prometheus.Registry
	users    []*user
	gateway  *gateway
	letters  *letters
	http     *http.Client
	ended    chan error // the result of the service's Run
	opsAddr  string
	apiKey   string // of the healthy user
	apiUp    bool   // the API is served

	closers []func() error // called in reverse order
}

// start starts everything except the gateway's traffic. After an error nothing is left running.
func start(ctx context.Context, o Options) (_ *setup, err error) {
	s := &setup{Options: o, registry: prometheus.NewRegistry(), http: &http.Client{Timeout: 2 * time.Second},
		ended: make(chan error, 1)}
	defer func() {
		if err != nil {
			_ = s.close() // the first error is returned
		}
	}()
	pair, err := embedded.Start(embedded.Options{Log: o.Log.Named("embedded")})
	if err != nil {
		return nil, err
	}
	s.closers = append(s.closers, pair.Close)
	point(o.Config, pair)
	s.plan, s.users = o.Config.TopicPlan(), newUsers(o.Config, o.Length)
	for _, u := range s.users {
		if err := u.receiver.start(); err != nil {
			return nil, err
		}
		s.closers = append(s.closers, u.receiver.server.Close)
	}
	if err := s.prepare(ctx); err != nil {
		return nil, err
	}
	if err := s.serve(ctx); err != nil {
		return nil, err
	}
	s.gateway = newGateway(s.client, s.plan.Sources(), s.users)
	s.apiUp = s.asksAPI(ctx)
	s.began = time.Now()
	return s, nil
}

// prepare writes to Kafka what the service expects: topics, users' settings, an API key.
func (s *setup) prepare(ctx context.Context) (err error) {
	kafkaConfig, err := app.KafkaConfig(s.Config, nil, s.Log)
	if err != nil {
		return err
	}
	if s.client, err = kafkaConfig.NewClient(kgo.ProducerLinger(0)); err != nil {
		return err
	}
	s.closers = append(s.closers, func() error { s.client.Close(); return nil })
	ctx, cancel := context.WithTimeout(ctx, readyTime)
	defer cancel()
	if _, err := kafka.EnsureTopics(ctx, s.client, s.plan); err != nil {
		return fmt.Errorf("create topics in the embedded Kafka: %w", err)
	}
	sealer, err := s.sealer()
	if err != nil {
		return err
	}
	var records []*kgo.Record
	for _, u := range s.users {
		records = append(records, &kgo.Record{Topic: s.Config.Topics.Config, Key: u.key(),
			Value: u.document().AppendJSON(nil, sealer)})
	}
	if err := kafka.ProduceWithin(ctx, s.client, records...); err != nil {
		return fmt.Errorf("write settings of the demo's users: %w", err)
	}
	if s.apiKey, err = apikey.Create(ctx, s.client, s.Config.Topics.Keys, s.users[0].id, "demo"); err != nil {
		return err
	}
	reading, err := kafkaConfig.NewClient(kgo.ConsumeTopics(s.Config.Topics.DeadLetter),
		kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()))
	if err != nil {
		return err
	}
	s.letters = readLetters(reading)
	s.closers = append(s.closers, func() error { s.letters.close(); return nil })
	return nil
}

func (s *setup) sealer() (*settings.Sealer, error) {
	if len(s.Config.Secrets.Key) == 0 {
		return nil, nil
	}
	sealer, err := settings.NewSealer(s.Config.Secrets.Key)
	if err != nil {
		return nil, fmt.Errorf("secrets.key: %w", err)
	}
	return sealer, nil
}

func (u *user) key() []byte { return strconv.AppendInt(nil, u.id, 10) }

// serve starts the service as the serve command does, and waits until it is ready.
func (s *setup) serve(ctx context.Context) error {
	ops, err := net.Listen("tcp", s.Config.Ops.Addr)
	if err != nil {
		return fmt.Errorf("ops.addr: %w", err)
	}
	s.opsAddr = ops.Addr().String()
	if s.Config.API.Addr, err = freeAddr(s.Config.API.Addr); err != nil {
		return fmt.Errorf("api.addr: %w", errors.Join(err, ops.Close()))
	}
	service, err := app.New(app.Options{Config: s.Config, Version: s.Version, Log: s.Log, Registry: s.registry,
		OpsListener: ops, Embedded: true})
	if err != nil {
		return errors.Join(err, ops.Close())
	}
	// An interrupt stops the gateway first. The service runs until all events are settled.
	running, stop := context.WithCancel(context.WithoutCancel(ctx))
	done := make(chan error, 1)
	go func() {
		err := service.Run(running)
		s.ended <- err
		done <- err
	}()
	s.closers = append(s.closers, func() error {
		stop()
		return <-done
	})
	return s.awaitReady(ctx)
}

// freeAddr replaces port 0 by a free port.
func freeAddr(addr string) (string, error) {
	l, err := net.Listen("tcp", addr)
	if err != nil {
		return "", err
	}
	return l.Addr().String(), l.Close()
}

func (s *setup) awaitReady(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, readyTime)
	defer cancel()
	ticker := time.NewTicker(probePause)
	defer ticker.Stop()
	for {
		status, text, err := s.get(ctx, "http://"+s.opsAddr+"/readyz", nil)
		if err == nil && status == http.StatusOK {
			return nil
		}
		select {
		case err := <-s.ended:
			return errEnded(err)
		case <-ctx.Done():
			return fmt.Errorf("wait until the service is ready: %w\n%s", context.Cause(ctx), text)
		case <-ticker.C:
		}
	}
}

func (s *setup) get(ctx context.Context, url string, header http.Header) (status int, text string, err error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return 0, "", err
	}
	if header != nil {
		req.Header = header
	}
	resp, err := s.http.Do(req)
	if err != nil {
		return 0, "", err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(io.LimitReader(resp.Body, 64<<10))
	return resp.StatusCode, string(body), err
}

// asksAPI reports whether the API is served and accepts the demo's key.
func (s *setup) asksAPI(ctx context.Context) bool {
	header := http.Header{"X-Api-Key": {s.apiKey}}
	status, _, err := s.get(ctx, s.api()+"/v1/user/get-webhook", header)
	return err == nil && status == http.StatusOK
}

func (s *setup) api() string { return "http://" + s.Config.API.Addr }

// page returns the URL for a browser.
func (s *setup) page() string {
	if s.apiUp {
		return s.api() + "/account/webhooks"
	}
	return "http://" + s.opsAddr + "/metrics"
}

// longest returns how long the last event may take.
func (s *setup) longest() time.Duration {
	return slices.MaxFunc(s.users, func(a, b *user) int { return int(a.longest - b.longest) }).longest
}

func (s *setup) counts() (counts, error) { return readCounts(s.registry, s.plan) }

// facts collects the facts.
func (s *setup) facts(ctx context.Context) (f facts, err error) {
	ctx, cancel := context.WithTimeout(ctx, askTime)
	defer cancel()
	if f.waiting, err = delayedRecords(ctx, s.client, s.plan); err != nil {
		return f, err
	}
	if f.counts, err = s.counts(); err != nil {
		return f, err
	}
	for _, k := range webhook.Kinds() {
		f.acked[k] = s.gateway.acked[k].Load()
		for _, u := range s.users {
			f.requests[k] += u.receiver.tally().requests[k]
		}
	}
	f.letters = s.letters.counts()
	f.filtered, f.repeat = s.gateway.filtered.Load(), s.gateway.repeat.Load()
	f.batchMayDie = len(s.Config.Retry.Schedule) == 0
	return f, nil
}

// close stops everything in reverse order.
func (s *setup) close() error {
	var errs []error
	for _, f := range slices.Backward(s.closers) {
		if err := f(); err != nil {
			errs = append(errs, err)
		}
	}
	s.closers = nil
	if err := errors.Join(errs...); err != nil {
		s.Log.Warn("cannot stop the demo", zap.Error(err))
		return err
	}
	return nil
}

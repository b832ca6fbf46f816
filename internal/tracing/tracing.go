// Package tracing follows records to their requests with OpenTelemetry spans, sent by OTLP over HTTP.
//
// One span covers a record from its dispatch until its fate is stored. It contains one span per attempt. A record in a
// delay topic has the traceparent of the span that wrote it, so all attempts of an event, over hours, form one trace.
package tracing

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"time"

	"go.opentelemetry.io/otel"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/codes"
	"go.opentelemetry.io/otel/exporters/otlp/otlptrace/otlptracehttp"
	"go.opentelemetry.io/otel/propagation"
	"go.opentelemetry.io/otel/sdk/resource"
	sdk "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/trace"
	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"

	"github.com/smshooks/smshooks/internal/event"
)

// tracesPath is the default path of the endpoint.
const tracesPath = "/v1/traces"

// Config configures a Tracer.
type Config struct {
	Endpoint string  // URL of the collector
	Sample   float64 // sampled share of the records without a traceparent, 0 to 1
	Version  string  // of the service
}

// Tracer creates spans for events.
type Tracer struct {
	provider *sdk.TracerProvider
	tracer   trace.Tracer
}

// New returns a Tracer that sends spans to the collector in the background. While the collector is unavailable or too
// slow, spans are dropped, which is logged, and nothing else is delayed. New does not dial yet.
//
// It also sends the errors of OpenTelemetry to log, for the whole process.
func New(ctx context.Context, cfg Config, log *zap.Logger) (*Tracer, error) {
	u, err := url.Parse(cfg.Endpoint)
	if err != nil {
		return nil, errors.New("tracing.endpoint: not a URL") // the error of Parse would repeat the value
	}
	if u.Path == "" || u.Path == "/" {
		u.Path = tracesPath
	}
	log = log.WithOptions(zap.WrapCore(func(core zapcore.Core) zapcore.Core {
		return zapcore.NewSamplerWithOptions(core, time.Minute, 1, 0) // once a minute, not for every batch
	}))
	otel.SetErrorHandler(otel.ErrorHandlerFunc(func(err error) { log.Warn("cannot send spans", zap.Error(err)) }))
	exporter, err := otlptracehttp.New(ctx, otlptracehttp.WithEndpointURL(u.String()),
		otlptracehttp.WithTimeout(5*time.Second))
	if err != nil {
		return nil, fmt.Errorf("tracing.endpoint: %w", err)
	}
	return newTracer(ctx, cfg, sdk.NewBatchSpanProcessor(exporter, sdk.WithBatchTimeout(time.Second)))
}

func newTracer(ctx context.Context, cfg Config, processor sdk.SpanProcessor) (*Tracer, error) {
	of, err := resource.New(ctx,
		resource.WithAttributes(attribute.String("service.name", "smshooks"),
			attribute.String("service.version", cfg.Version)),
		resource.WithFromEnv())
	if err != nil {
		return nil, fmt.Errorf("OTEL_RESOURCE_ATTRIBUTES: %w", err)
	}
	provider := sdk.NewTracerProvider(sdk.WithResource(of), sdk.WithSpanProcessor(processor),
		sdk.WithSampler(sdk.ParentBased(sdk.TraceIDRatioBased(cfg.Sample))))
	return &Tracer{provider, provider.Tracer("github.com/smshooks/smshooks")}, nil
}

// Close sends the remaining spans until ctx ends.
func (t *Tracer) Close(ctx context.Context) error {
	if err := t.provider.Shutdown(ctx); err != nil {
		return fmt.Errorf("send the last spans: %w", err)
	}
	return nil
}

// Follow starts the span of a record that is dispatched now, as a child of its traceparent. It replaces the traceparent
// of the event by that of the new span. It returns nil if the record is not sampled.
func (t *Tracer) Follow(e *event.Event) event.Trace {
	ctx := propagation.TraceContext{}.Extract(context.Background(), (*carrier)(e))
	ctx, span := t.tracer.Start(ctx, e.Topic+" process", trace.WithSpanKind(trace.SpanKindConsumer))
	propagation.TraceContext{}.Inject(ctx, (*carrier)(e))
	if !span.IsRecording() {
		return nil
	}
	span.SetAttributes(
		attribute.String("messaging.system", "kafka"), attribute.String("messaging.destination.name", e.Topic),
		attribute.Int("messaging.destination.partition.id", int(e.Partition)),
		attribute.Int64("messaging.kafka.offset", e.Offset),
		attribute.String("smshooks.id", e.Identity()), attribute.String("smshooks.record", e.SourcePosition()),
		attribute.String("smshooks.kind", e.Kind.String()))
	return &record{t.tracer, span, e.SourcePosition()}
}

// record is the span of a record. A revocation batch uses the span of its first record.
type record struct {
	tracer trace.Tracer
	span   trace.Span
	origin string // position of the source record
}

// Attempt implements event.Trace.
func (r *record) Attempt(a event.LogEntry) {
	ctx := trace.ContextWithSpan(context.Background(), r.span)
	_, span := r.tracer.Start(ctx, "POST", trace.WithSpanKind(trace.SpanKindClient), trace.WithTimestamp(a.Time))
	span.SetAttributes(
		attribute.String("smshooks.id", a.ID), attribute.String("smshooks.record", r.origin),
		attribute.String("smshooks.kind", a.Kind.String()), attribute.Int("smshooks.attempt", a.Number),
		attribute.String("smshooks.outcome", a.Failure.Result().String()), attribute.Int64("smshooks.user_id", a.UserID),
		attribute.String("http.request.method", "POST"), attribute.String("server.address", a.Host))
	if a.Failover {
		span.SetAttributes(attribute.Bool("smshooks.failover", true))
	}
	if a.Status != 0 {
		span.SetAttributes(attribute.Int("http.response.status_code", a.Status))
	}
	if a.Failure != "" {
		span.SetAttributes(attribute.String("error.type", string(a.Failure)))
		span.SetStatus(codes.Error, string(a.Failure))
	}
	span.End(trace.WithTimestamp(a.Time.Add(a.Took)))
}

// End implements event.Trace.
func (r *record) End(e *event.Event, how string) {
	r.span.SetAttributes(attribute.String("smshooks.fate", how), attribute.Int("smshooks.attempts", e.Attempts),
		attribute.Int64("smshooks.user_id", e.UserID))
	r.span.End()
}

// carrier lets OpenTelemetry read and write an event's traceparent. The tracestate is dropped.
type carrier event.Event

// Get implements propagation.TextMapCarrier.
func (c *carrier) Get(key string) string {
	if key == event.HeaderTrace {
		return c.Traceparent
	}
	return ""
}

// Set implements propagation.TextMapCarrier.
func (c *carrier) Set(key, value string) {
	if key == event.HeaderTrace {
		c.Traceparent = value
	}
}

// Keys implements propagation.TextMapCarrier.
func (c *carrier) Keys() []string { return []string{event.HeaderTrace} }

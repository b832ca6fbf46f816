// Calls every operation of the API with the client that oapi-codegen made.
package main

import (
	"context"
	"log"
	"net/http"
	"os"
	"reflect"
	"strings"
	"time"

	"client/smshooks"
)

// check ends the program unless ok.
func check(ok bool, what ...any) {
	if !ok {
		log.Output(2, "failed")
		log.Fatalf("%+v", what)
	}
}

func main() {
	log.SetFlags(log.Lshortfile)
	receiver, event, message := os.Getenv("RECEIVER"), os.Getenv("EVENT"), os.Getenv("MESSAGE")
	withKey := func(_ context.Context, r *http.Request) error {
		r.Header.Set("X-API-KEY", os.Getenv("KEY"))
		return nil
	}
	api, err := smshooks.NewClientWithResponses(os.Getenv("API"), smshooks.WithRequestEditorFn(withKey))
	check(err == nil, err)
	ctx := context.Background()
	set(ctx, api, receiver)
	before := list(ctx, api, event, message)
	again(ctx, api, event, before)
	specification, err := api.GetSpecificationWithResponse(ctx)
	check(err == nil && strings.HasPrefix(string(specification.Body), "openapi: 3.0"), err)
}

// set changes and reads settings, and tests the URLs.
func set(ctx context.Context, api *smshooks.ClientWithResponses, receiver string) {
	empty, bad, login, grace, yes := "", "ftp://example.com", "user:pass", "1h", true
	changed, err := api.SetWebhookWithResponse(ctx, smshooks.SettingsChange{DlrUrl: &receiver, ClickUrl: &empty})
	check(err == nil && *changed.JSON200.Data.DlrUrl == receiver && changed.JSON200.Data.ClickUrl == nil, err)
	got, err := api.GetWebhookWithResponse(ctx)
	check(err == nil && reflect.DeepEqual(got.JSON200, changed.JSON200), err)
	refused, err := api.SetWebhookWithResponse(ctx, smshooks.SettingsChange{DlrUrl: &bad})
	check(err == nil && strings.HasPrefix(refused.JSON422.Errors[0], "dlr_url: "), err)
	form, err := api.SetWebhookWithFormdataBodyWithResponse(ctx, smshooks.SettingsChange{Auth: &login})
	check(err == nil && form.JSON200.Data.Auth, err)

	order := smshooks.Latest
	statuses := []smshooks.MessageStatus{"Delivered", "Pending", "Failed", "Rejected", "Expired", "Unknown"}
	further, err := api.SetFurtherSettingsWithResponse(ctx, smshooks.FurtherSettingsChange{
		ClickPaused: &yes, DlrOrder: &order, DlrStatuses: &statuses, ClickFailoverUrl: &receiver,
	})
	check(err == nil && further.JSON200.Data.ClickPaused, err)
	check(reflect.DeepEqual(*further.JSON200.Data.DlrStatuses, statuses), further)
	shown, err := api.GetFurtherSettingsWithResponse(ctx)
	check(err == nil && reflect.DeepEqual(shown.JSON200, further.JSON200), err)

	secret, err := api.RotateSecretWithResponse(ctx, smshooks.RotateRequest{Grace: &grace})
	check(err == nil && strings.HasPrefix(secret.JSON200.Data.Secret, "whsec_"), err)
	cleared, err := api.ClearSecretWithResponse(ctx)
	check(err == nil && !cleared.JSON200.Data.Signing, err)

	tested, err := api.TestWebhookWithResponse(ctx)
	check(err == nil && tested.JSON200.Data.Dlr.Status == "failed" && *tested.JSON200.Data.Dlr.HttpCode == 503, err)
	check(tested.JSON200.Data.Click.Status == "skipped" && *tested.JSON200.Data.Click.Reason == "not configured", tested)
}

// list checks what became of the event. It returns the time of its attempt.
func list(ctx context.Context, api *smshooks.ClientWithResponses, event, message string) time.Time {
	endpoints, err := api.ListEndpointsWithResponse(ctx)
	check(err == nil && endpoints.JSON200.Data[0].State == "failing", err)
	check(*endpoints.JSON200.Data[0].Failure == "http 503", endpoints)
	kind, limit, code := smshooks.Dlr, int32(10), int32(503)
	attempts, err := api.ListDeliveriesWithResponse(ctx,
		&smshooks.ListDeliveriesParams{Kind: &kind, Limit: &limit, HttpCode: &code})
	check(err == nil && attempts.JSON200.Data[0].Id == event && *attempts.JSON200.Data[0].MessageId == message, err)
	at := attempts.JSON200.Data[0].Time
	check(attempts.JSON200.Data[0].NextAttempt.After(at), attempts)
	text := at.Format(time.RFC3339Nano)
	earlier, err := api.ListDeliveriesWithResponse(ctx, &smshooks.ListDeliveriesParams{Before: &text})
	check(err == nil && len(earlier.JSON200.Data) == 0, err)
	shown, err := api.GetEventWithResponse(ctx, event)
	check(err == nil && shown.JSON200.Data.State == "waiting" && *shown.JSON200.Data.Attempts[0].Reply == "no room", err)
	check(strings.HasPrefix(shown.JSON200.Data.Request.Body, "sms="), shown)
	events, err := api.ListMessageEventsWithResponse(ctx, message)
	check(err == nil && events.JSON200.Data[0].Id == event, err)
	unknown, err := api.GetEventWithResponse(ctx, "a/b")
	check(err == nil && unknown.JSON404 != nil, err)
	return at
}

// again recovers and replays the event.
func again(ctx context.Context, api *smshooks.ClientWithResponses, event string, at time.Time) {
	none, err := api.GetRecoveryWithResponse(ctx)
	check(err == nil && none.JSON200.Success && none.JSON200.Data == nil, err)
	kind, ids := smshooks.Dlr, []string{event}
	begun, err := api.RecoverWithResponse(ctx, smshooks.RecoverRequest{Kind: &kind, Ids: &ids})
	check(err == nil && begun.JSON200 != nil, err)
	var recovery *smshooks.Recovery
	for range 100 {
		latest, err := api.GetRecoveryWithResponse(ctx)
		check(err == nil && latest.JSON200.Data != nil, err)
		if recovery = latest.JSON200.Data; recovery.State == "done" {
			break
		}
		time.Sleep(200 * time.Millisecond)
	}
	check(recovery.Id == begun.JSON200.Data.Id && recovery.State == "done" && recovery.Released == 1, recovery)
	replayed, err := api.ReplayWithResponse(ctx, smshooks.ReplayRequest{Ids: &ids, Since: &at})
	check(err == nil && replayed.JSON200.Data.Replayed == 1, err)
}

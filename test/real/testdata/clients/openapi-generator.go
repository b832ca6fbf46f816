// Calls every operation of the API with the client that OpenAPI Generator made for Go.
package main

import (
	"context"
	"io"
	"log"
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
	configuration := smshooks.NewConfiguration()
	configuration.Servers = smshooks.ServerConfigurations{{URL: os.Getenv("API")}}
	client := smshooks.NewAPIClient(configuration)
	ctx := context.WithValue(context.Background(), smshooks.ContextAPIKeys,
		map[string]smshooks.APIKey{"apiKey": {Key: os.Getenv("KEY")}})
	set(ctx, client.SettingsAPI, receiver)
	before := list(ctx, client.DeliveriesAPI, event, message)
	again(ctx, client.DeliveriesAPI, event, before)
	reply, err := client.SpecificationAPI.GetSpecification(ctx).Execute()
	check(err == nil, err)
	text, err := io.ReadAll(reply.Body)
	check(err == nil && strings.HasPrefix(string(text), "openapi: 3.0"), err)
}

// set changes and reads settings, and tests the URLs.
func set(ctx context.Context, api *smshooks.SettingsAPIService, receiver string) {
	empty, bad, grace, yes := "", "ftp://example.com", "1h", true
	changed, _, err := api.SetWebhook(ctx).
		SettingsChange(smshooks.SettingsChange{DlrUrl: &receiver, ClickUrl: &empty}).Execute()
	check(err == nil && changed.Data.GetDlrUrl() == receiver && changed.Data.ClickUrl.Get() == nil, err, changed)
	got, _, err := api.GetWebhook(ctx).Execute()
	check(err == nil && reflect.DeepEqual(got, changed), err, got)
	_, reply, err := api.SetWebhook(ctx).SettingsChange(smshooks.SettingsChange{DlrUrl: &bad}).Execute()
	check(err != nil && reply.StatusCode == 422, err)
	refused, ok := err.(*smshooks.GenericOpenAPIError).Model().(smshooks.ErrorReply)
	check(ok && strings.HasPrefix(refused.Errors[0], "dlr_url: "), err)

	order := smshooks.LATEST
	further, _, err := api.SetFurtherSettings(ctx).FurtherSettingsChange(smshooks.FurtherSettingsChange{
		ClickPaused: &yes, DlrOrder: &order, ClickFailoverUrl: &receiver,
		DlrStatuses: smshooks.AllowedMessageStatusEnumValues,
	}).Execute()
	check(err == nil && further.Data.ClickPaused && further.Data.DlrOrder == order, err, further)
	check(len(further.Data.DlrStatuses) == 6, further)
	shown, _, err := api.GetFurtherSettings(ctx).Execute()
	check(err == nil && reflect.DeepEqual(shown, further), err, shown)

	secret, _, err := api.RotateSecret(ctx).RotateRequest(smshooks.RotateRequest{Grace: &grace}).Execute()
	check(err == nil && strings.HasPrefix(secret.Data.Secret, "whsec_"), err)
	check(secret.Data.PreviousValidUntil.Get() == nil, secret)
	cleared, _, err := api.ClearSecret(ctx).Execute()
	check(err == nil && !cleared.Data.Signing, err)

	tested, _, err := api.TestWebhook(ctx).Execute()
	check(err == nil && tested.Data.Dlr.Status == "failed" && *tested.Data.Dlr.HttpCode == 503, err, tested)
	check(tested.Data.Click.Status == "skipped" && tested.Data.Click.HttpCode == nil, tested)
}

// list checks what became of the event. It returns the time of its attempt.
func list(ctx context.Context, api *smshooks.DeliveriesAPIService, event, message string) time.Time {
	endpoints, _, err := api.ListEndpoints(ctx).Execute()
	check(err == nil && endpoints.Data[0].State == "failing", err, endpoints)
	check(endpoints.Data[0].GetFailure() == "http 503", endpoints)
	attempts, _, err := api.ListDeliveries(ctx).Kind(smshooks.DLR).Limit(10).HttpCode(503).Execute()
	check(err == nil && attempts.Data[0].Id == event && attempts.Data[0].GetMessageId() == message, err, attempts)
	at := attempts.Data[0].Time
	check(attempts.Data[0].GetNextAttempt().After(at), attempts)
	earlier, _, err := api.ListDeliveries(ctx).Before(at.Format(time.RFC3339Nano)).Execute()
	check(err == nil && len(earlier.Data) == 0, err, earlier)
	shown, _, err := api.GetEvent(ctx, event).Execute()
	check(err == nil && shown.Data.State == "waiting" && shown.Data.Attempts[0].GetReply() == "no room", err, shown)
	request := shown.Data.GetRequest()
	check(strings.HasPrefix(request.Body, "sms="), request)
	events, _, err := api.ListMessageEvents(ctx, message).Execute()
	check(err == nil && events.Data[0].Id == event, err, events)
	_, reply, err := api.GetEvent(ctx, "a/b").Execute()
	check(err != nil && reply.StatusCode == 404, err)
	return at
}

// again recovers and replays the event.
func again(ctx context.Context, api *smshooks.DeliveriesAPIService, event string, at time.Time) {
	none, _, err := api.GetRecovery(ctx).Execute()
	check(err == nil && none.Data.Get() == nil, err, none)
	kind := smshooks.DLR
	begun, _, err := api.Recover(ctx).
		RecoverRequest(smshooks.RecoverRequest{Kind: &kind, Ids: []string{event}}).Execute()
	check(err == nil, err)
	var recovery smshooks.Recovery
	for range 100 {
		latest, _, err := api.GetRecovery(ctx).Execute()
		check(err == nil, err)
		if recovery = latest.GetData(); recovery.State == "done" {
			break
		}
		time.Sleep(200 * time.Millisecond)
	}
	check(recovery.Id == begun.Data.Id && recovery.State == "done" && recovery.Released == 1, recovery)
	replayed, _, err := api.Replay(ctx).
		ReplayRequest(smshooks.ReplayRequest{Ids: []string{event}, Since: &at}).Execute()
	check(err == nil && replayed.Data.Replayed == 1, err, replayed)
}

"""Calls every operation of the API with the client that OpenAPI Generator made for Python."""

import os
import time

import smshooks
from smshooks import Kind, MessageStatus, ReceiptOrder

receiver, event, message = (os.environ[name] for name in ("RECEIVER", "EVENT", "MESSAGE"))
client = smshooks.ApiClient(
    smshooks.Configuration(host=os.environ["API"], api_key={"apiKey": os.environ["KEY"]})
)
settings, deliveries = smshooks.SettingsApi(client), smshooks.DeliveriesApi(client)

# set, get
changed = settings.set_webhook(smshooks.SettingsChange(dlr_url=receiver, click_url="")).data
assert changed.dlr_url == receiver and changed.click_url is None, changed
assert settings.get_webhook().data == changed
try:
    settings.set_webhook(smshooks.SettingsChange(dlr_url="ftp://example.com"))
    raise AssertionError("a bad URL is accepted")
except smshooks.ApiException as e:
    assert e.status == 422 and e.data.errors[0].startswith("dlr_url: "), e

# further settings
further = settings.set_further_settings(
    smshooks.FurtherSettingsChange(
        click_paused=True, dlr_order=ReceiptOrder.ALL, dlr_statuses=list(MessageStatus), click_failover_url=receiver
    )
).data
assert further.click_paused and further.dlr_statuses == list(MessageStatus), further
assert settings.get_further_settings().data == further
assert settings.set_further_settings(smshooks.FurtherSettingsChange(dlr_statuses=None)).data.dlr_statuses is None

# secrets
secret = settings.rotate_secret(smshooks.RotateRequest(grace="1h")).data
assert secret.secret.startswith("whsec_") and secret.previous_valid_until is None
assert settings.rotate_secret().data.previous_valid_until is not None
assert settings.clear_secret().data.signing is False

# test
tested = settings.test_webhook().data
assert (tested.dlr.status, tested.dlr.http_code) == ("failed", 503), tested
assert (tested.click.status, tested.click.reason, tested.click.time) == ("skipped", "not configured", None), tested

# list
endpoint = deliveries.list_endpoints().data[0]
assert (endpoint.kind, endpoint.state, endpoint.failure) == ("dlr", "failing", "http 503"), endpoint
attempt = deliveries.list_deliveries(kind=Kind.DLR, limit=10, http_code=503).data[0]
assert (attempt.id, attempt.message_id, attempt.error) == (event, message, "http 503"), attempt
assert attempt.next_attempt > attempt.time
assert deliveries.list_deliveries(before=attempt.time.isoformat()).data == []
shown = deliveries.get_event(event).data
assert (shown.state, shown.attempts[0].reply) == ("waiting", "no room"), shown
assert shown.request.body.startswith("sms="), shown
assert deliveries.list_message_events(message).data[0].id == event
try:
    deliveries.get_event("a/b")
    raise AssertionError("an unknown event is found")
except smshooks.ApiException as e:
    assert e.status == 404, e

# recover, replay
assert deliveries.get_recovery().data is None
begun = deliveries.recover(smshooks.RecoverRequest(kind=Kind.DLR, ids=[event])).data
for _ in range(100):
    recovery = deliveries.get_recovery().data
    if recovery.state == "done":
        break
    time.sleep(0.2)
assert (recovery.id, recovery.state, recovery.released) == (begun.id, "done", 1), recovery
assert deliveries.replay(smshooks.ReplayRequest(ids=[event], since=attempt.time)).data.replayed == 1

specification = smshooks.SpecificationApi(client).get_specification_with_http_info()
assert specification.raw_data.startswith(b"openapi: 3.0"), specification

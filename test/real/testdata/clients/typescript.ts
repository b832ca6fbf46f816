// Calls every operation of the API with OpenAPI Generator's client for TypeScript.

import { Configuration, DeliveriesApi, Kind, MessageStatus, ReceiptOrder, ResponseError, SettingsApi, SpecificationApi } from "./smshooks";

declare const process: { env: Record<string, string>; exit(code: number): void };

const { API, KEY, RECEIVER, EVENT, MESSAGE } = process.env;
const configuration = new Configuration({ basePath: API, apiKey: KEY });
const settings = new SettingsApi(configuration);
const deliveries = new DeliveriesApi(configuration);

// check compares values as JSON, in which undefined and absent fields are the same.
function check(what: string, got: unknown, want: unknown) {
  if (JSON.stringify(got) !== JSON.stringify(want)) {
    throw new Error(`${what}: ${JSON.stringify(got)}, want ${JSON.stringify(want)}`);
  }
}

async function refused(call: Promise<unknown>): Promise<Response> {
  try {
    await call;
  } catch (error) {
    if (error instanceof ResponseError) return error.response;
    throw error;
  }
  throw new Error("the call was accepted");
}

async function main() {
  // set, get
  const changed = (await settings.setWebhook({ settingsChange: { dlrUrl: RECEIVER, clickUrl: "" } })).data;
  check("URLs", [changed.dlrUrl, changed.clickUrl], [RECEIVER, null]);
  check("stored URLs", (await settings.getWebhook()).data, changed);
  const invalid = await refused(settings.setWebhook({ settingsChange: { dlrUrl: "ftp://example.com" } }));
  check("status of a bad URL", invalid.status, 422);
  check("error of a bad URL", (await invalid.json()).errors[0].startsWith("dlr_url: "), true);

  // further settings; the client leaves null out, which would reset the statuses
  const statuses = Object.values(MessageStatus);
  const further = (await settings.setFurtherSettings({
    furtherSettingsChange: { clickPaused: true, dlrOrder: ReceiptOrder.All, dlrStatuses: statuses, clickFailoverUrl: RECEIVER },
  })).data;
  check("options", [further.clickPaused, further.dlrStatuses], [true, statuses]);
  check("stored options", (await settings.getFurtherSettings()).data, further);

  // secrets
  const secret = (await settings.rotateSecret({ rotateRequest: { grace: "1h" } })).data;
  check("first secret", [secret.secret.slice(0, 6), secret.previousValidUntil], ["whsec_", null]);
  check("second secret", (await settings.rotateSecret()).data.previousValidUntil instanceof Date, true);
  check("signing", (await settings.clearSecret()).data.signing, false);

  // test
  const tested = (await settings.testWebhook()).data;
  check("test of dlr", [tested.dlr.status, tested.dlr.httpCode], ["failed", 503]);
  check("test of click", tested.click, { status: "skipped", reason: "not configured" });

  // list
  const endpoint = (await deliveries.listEndpoints()).data[0];
  check("endpoint", [endpoint.kind, endpoint.state, endpoint.failure], ["dlr", "failing", "http 503"]);
  const attempt = (await deliveries.listDeliveries({ kind: Kind.Dlr, limit: 10, httpCode: 503 })).data[0];
  check("attempt", [attempt.id, attempt.messageId, attempt.error], [EVENT, MESSAGE, "http 503"]);
  check("next attempt", attempt.nextAttempt! > attempt.time, true);
  check("earlier attempts", (await deliveries.listDeliveries({ before: attempt.time.toISOString() })).data, []);
  const shown = (await deliveries.getEvent({ id: EVENT })).data;
  check("event", [shown.state, shown.attempts[0].reply], ["waiting", "no room"]);
  check("request", shown.request!.body.slice(0, 4), "sms=");
  check("message", (await deliveries.listMessageEvents({ smsId: MESSAGE })).data[0].id, EVENT);
  check("unknown event", (await refused(deliveries.getEvent({ id: "a/b" }))).status, 404);

  // recover, replay
  check("no recovery", (await deliveries.getRecovery()).data, null);
  const begun = (await deliveries.recover({ recoverRequest: { kind: Kind.Dlr, ids: [EVENT] } })).data;
  let recovery = (await deliveries.getRecovery()).data!;
  for (let i = 0; i < 100 && recovery.state !== "done"; i++) {
    await new Promise((resolve) => setTimeout(resolve, 200));
    recovery = (await deliveries.getRecovery()).data!;
  }
  check("recovery", [recovery.id, recovery.state, recovery.released], [begun.id, "done", 1]);
  const replayed = await deliveries.replay({ replayRequest: { ids: [EVENT], since: attempt.time } });
  check("replayed", replayed.data.replayed, 1);

  const specification = (await new SpecificationApi(configuration).getSpecificationRaw()).raw;
  check("specification", (await specification.text()).slice(0, 12), "openapi: 3.0");
}

main().catch((error) => {
  console.error(error);
  process.exit(1);
});

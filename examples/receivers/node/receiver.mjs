// A receiver of webhooks, with nothing but the standard library of Node 18 or later.
//
//   WEBHOOK_SECRET=whsec_… WEBHOOK_DIR=kept node receiver.mjs
//
// WEBHOOK_AUTH=user:password also checks the credentials of delivery receipts. See ../README.md.
import { createHash, createHmac, timingSafeEqual } from "node:crypto";
import { accessSync, constants, existsSync, readFileSync, renameSync, writeFileSync } from "node:fs";
import { createServer } from "node:http";

const { WEBHOOK_SECRET = "", WEBHOOK_AUTH, WEBHOOK_DIR = "/var/lib/webhooks", PORT = "8090" } = process.env;
const maxBody = 1 << 20; // bytes
const tolerance = 5 * 60; // seconds; an older request may be a recorded one

const sha256 = (text) => createHash("sha256").update(text).digest();
const hex = (text) => sha256(text).toString("hex");
const equal = (a, b) => timingSafeEqual(sha256(a), sha256(b)); // constant time; the hashes hide the length

const key = Buffer.from(WEBHOOK_SECRET.replace(/^whsec_/, ""), "base64");
if (!WEBHOOK_SECRET.startsWith("whsec_") || key.length < 24) {
  console.error("WEBHOOK_SECRET: must be the signing secret, whsec_ and base64");
  process.exit(2);
}
accessSync(WEBHOOK_DIR, constants.W_OK); // fails now, not at the first event

// signed reports whether one of the signatures matches, and the time is near.
function signed(headers, body) {
  const id = headers["webhook-id"] ?? "", time = headers["webhook-timestamp"] ?? "";
  if (!/^\d{1,12}$/.test(time) || Math.abs(Date.now() / 1000 - Number(time)) > tolerance) return false;
  const mac = "v1," + createHmac("sha256", key).update(`${id}.${time}.`).update(body).digest("base64");
  return (headers["webhook-signature"] ?? "").split(" ").some((signature) => equal(signature, mac));
}

// kindOf returns the last segment of a URL's path: "dlr" for /dlr, /dlr/, /hooks/dlr and /dlr?x=1.
function kindOf(url) {
  try {
    return decodeURIComponent(url.split("?")[0]).replace(/\/+$/, "").split("/").pop();
  } catch {
    return "";
  }
}

// keep replaces a file in one step, so that a crash leaves the old or the new one.
function keep(name, text) {
  const file = `${WEBHOOK_DIR}/${name}`;
  writeFileSync(file + ".part", text);
  renameSync(file + ".part", file);
}

// apply stores an event, unless it was stored before or a later one of the same message was. Nothing here waits, so no
// other request runs in between. With a database it is one transaction.
function apply(kind, id, time, message, json) {
  if (existsSync(`${WEBHOOK_DIR}/id-${hex(id)}`)) return;
  const name = `${kind}-${hex(message)}`, file = `${WEBHOOK_DIR}/${name}`;
  const stored = existsSync(file) ? readFileSync(file, "utf8").split("\n")[0] : "";
  if (time >= stored) keep(name, `${time}\n${json}\n`);
  keep(`id-${hex(id)}`, "");
}

// statusOf handles a request and returns the status of the answer.
function statusOf(req, body) {
  const kind = kindOf(req.url), headers = req.headers;
  if (!["dlr", "click", "inbound", "revoke_click"].includes(kind)) return 404;
  if (req.method !== "POST") return 405;
  if (!signed(headers, body)) return 401;
  const credentials = "Basic " + Buffer.from(WEBHOOK_AUTH ?? "").toString("base64");
  if (kind === "dlr" && WEBHOOK_AUTH && !equal(headers.authorization ?? "", credentials)) return 401;
  const id = headers["webhook-id"], time = headers["webhook-event-time"] ?? "";
  if (!id || !/^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z$/.test(time)) return 400;
  const json = kind === "revoke_click" ? body.toString() : new URLSearchParams(body.toString()).get("sms") ?? "";
  try {
    JSON.parse(json); // numbers over 2^53 lose digits here, so the text is stored
  } catch {
    return 400;
  }
  // The message's id is the first key. A batch of revocations is a separate event.
  const message = kind === "revoke_click" ? id : /^\{"id":("(?:[^"\\]|\\.)*"|[^,}]+)/.exec(json)?.[1];
  if (!message) return 400;
  apply(kind, id, time, message, json);
  return 200;
}

createServer(async (req, res) => {
  let status = 500; // the event is sent again unless the status is 200
  try {
    const parts = [];
    let size = 0;
    for await (const part of req) if ((size += part.length) <= maxBody) parts.push(part);
    status = size > maxBody ? 413 : statusOf(req, Buffer.concat(parts));
  } catch (error) {
    console.error(error);
  }
  res.writeHead(status, status === 401 ? { "WWW-Authenticate": 'Basic realm="webhooks"' } : {}).end();
}).listen(Number(PORT), "127.0.0.1");

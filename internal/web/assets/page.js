// The page works without this file. It shows times in the user's zone, avoids reloads where typed text would be lost,
// shows each test result as it arrives, and follows what is under way. Responses are inserted as text, or as the page
// that the server rendered.
"use strict";

const json = "application/x-ndjson";

// body returns a form as the browser would send it, with the pressed button.
function body(form, button) {
  const data = new URLSearchParams(new FormData(form));
  if (button && button.name) data.append(button.name, button.value);
  return data;
}

function say(text, good) {
  const p = document.createElement("p");
  p.className = good ? "message good" : "message bad";
  p.setAttribute("role", good ? "status" : "alert");
  p.textContent = text;
  document.getElementById("messages").replaceChildren(p);
}

// swap sends a form and replaces the part with this id, and the messages, by those of the page that answers.
async function swap(id, url, options) {
  const part = document.getElementById(id);
  part.setAttribute("aria-busy", "true");
  try {
    const reply = await fetch(url, options);
    const page = new DOMParser().parseFromString(await reply.text(), "text/html");
    const fresh = page.getElementById(id);
    if (!fresh) {
      if (reply.status === 401) location.reload();
      const text = page.querySelector("main [role=alert]");
      return say(text ? text.textContent : "The request failed. Please try again.");
    }
    const messages = page.getElementById("messages");
    part.replaceWith(fresh);
    document.getElementById("messages").replaceWith(messages);
    enhance();
    const first = fresh.querySelector("[autofocus]") || messages.firstElementChild;
    if (first) first.focus();
    else focusOn(fresh);
  } catch {
    say("The server is not reachable. Please try again.");
  } finally {
    part.removeAttribute("aria-busy");
  }
}

function focusOn(part) {
  const title = part.querySelector("h2");
  title.tabIndex = -1;
  title.focus({ preventScroll: true });
}

// test sends the test event of the pressed button, or all, and shows each result as it arrives.
async function test(form, button) {
  const status = document.getElementById("test-status");
  if (form.querySelector("[aria-disabled=true]")) return;
  const rows = button.value ? [button.closest("tr")] : [...form.querySelectorAll("tbody tr")];
  button.setAttribute("aria-disabled", "true");
  status.textContent = "Sending…";
  for (const row of rows) result(row, unknown, "waiting for the response");
  let good = 0, sent = 0;
  try {
    const reply = await fetch(form.action, { method: "POST", body: body(form, button), headers: { Accept: json } });
    if (reply.status === 401) location.reload();
    if (!reply.ok) {
      const page = new DOMParser().parseFromString(await reply.text(), "text/html");
      throw new Error(page.querySelector("main [role=alert]")?.textContent);
    }
    for await (const line of lines(reply.body)) {
      const outcome = JSON.parse(line);
      result(document.getElementById("result-" + outcome.kind), outcome.state, outcome.text);
      if (outcome.state.class !== "none") sent++;
      if (outcome.state.class === "ok") good++;
    }
    status.textContent = sent ? good + " of " + sent + " succeeded." : "No URL is saved for it yet.";
  } catch (error) {
    status.textContent = error instanceof TypeError || !error.message ? "The server is not reachable. Please try again." : error.message;
    for (const row of rows) {
      if (!row.querySelector(".badge").classList[1]) result(row, unknown, "not tested");
    }
  }
  button.removeAttribute("aria-disabled");
}

const unknown = { class: "", text: "–" };

function result(row, state, text) {
  const badge = row.querySelector(".badge");
  badge.className = ("badge " + state.class).trim();
  badge.textContent = state.text;
  row.querySelector(".text").textContent = text;
}

// lines reads a stream line by line.
async function* lines(stream) {
  const reader = stream.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  for (;;) {
    const { done, value } = await reader.read();
    if (done) return;
    const parts = (rest + value).split("\n");
    rest = parts.pop();
    yield* parts;
  }
}

const localTime = new Intl.DateTimeFormat(undefined, { dateStyle: "medium", timeStyle: "medium" });
const thisYear = new Intl.DateTimeFormat(undefined, { month: "short", day: "numeric", hour: "numeric", minute: "2-digit", second: "2-digit" });
const axisTime = {
  day: new Intl.DateTimeFormat(undefined, { day: "numeric", month: "short" }),
  minute: new Intl.DateTimeFormat(undefined, { hour: "2-digit", minute: "2-digit" }),
  second: new Intl.DateTimeFormat(undefined, { timeStyle: "medium" }),
};

// enhance shows what needs this file: times of the user's zone, and buttons.
function enhance() {
  for (const time of document.querySelectorAll("time:not([title])")) {
    time.title = time.textContent;
    const at = new Date(time.dateTime);
    time.textContent = (at.getFullYear() === new Date().getFullYear() ? thisYear : localTime).format(at);
  }
  for (const tick of document.querySelectorAll("text[data-time]")) {
    tick.textContent = axisTime[tick.dataset.style].format(new Date(tick.dataset.time));
  }
  for (const hidden of document.querySelectorAll("[data-copy]")) hidden.hidden = false;
  const zone = document.getElementById("zone");
  if (zone) zone.textContent = "Times are in your time zone, " + localTime.resolvedOptions().timeZone + ". Point at one to see it in UTC.";
  if (document.querySelector("[data-live]")) setTimeout(follow, 2000);
}
enhance();

let rounds = 0; // of follow

// follow loads the parts again that are under way, for two minutes.
async function follow() {
  const reply = await fetch(location.href).catch(() => undefined);
  const page = new DOMParser().parseFromString(reply && reply.ok ? await reply.text() : "", "text/html");
  for (const part of document.querySelectorAll("[data-live]")) {
    const fresh = page.getElementById(part.id);
    // What the user is working with stays.
    if (!fresh || part.contains(document.activeElement) || getSelection().containsNode(part, true) && !getSelection().isCollapsed) continue;
    const open = [...part.querySelectorAll("details")].map((details) => details.open);
    fresh.querySelectorAll("details").forEach((details, i) => { details.open = open[i]; });
    part.replaceWith(fresh);
  }
  if (++rounds < 60) enhance();
}

async function copy(button) {
  const source = document.getElementById(button.dataset.copy);
  if (source.select) source.select();
  try {
    await navigator.clipboard.writeText(source.value || source.textContent);
  } catch { // not allowed, or not there without https
    if (!source.select) getSelection().selectAllChildren(source);
    if (!document.execCommand("copy")) return;
  }
  button.textContent = "Copied";
}

// unsaved reports whether a field of a form was refused, or differs from what the page showed.
function unsaved(form) {
  return form.querySelector("[aria-invalid]") || [...form.querySelectorAll("input, option")].some((e) =>
    e.tagName === "OPTION" ? e.selected !== e.defaultSelected
      : e.type === "checkbox" ? e.checked !== e.defaultChecked : e.value !== e.defaultValue);
}

let sent; // the form that leaves the page
const cardOf = (form) => form.closest("section") || form;

window.addEventListener("beforeunload", (event) => {
  for (const form of document.querySelectorAll("form[data-guard]")) {
    if (form === sent || !unsaved(form)) continue;
    event.preventDefault();
    setTimeout(stay);
  }
});

// stay ends what sending a form began: the user chose to stay, or the browser shows the page again on "back".
function stay() {
  if (sent) cardOf(sent).removeAttribute("aria-busy");
  sent = undefined;
}
window.addEventListener("pageshow", stay);

document.addEventListener("submit", (event) => {
  const form = event.target;
  const id = form.dataset.swap;
  if (form.id === "test-form") {
    event.preventDefault();
    test(form, event.submitter || document.getElementById("test-button"));
  } else if (id) {
    event.preventDefault();
    swap(id, form.action, { method: "POST", body: body(form, event.submitter) });
  } else {
    sent = form;
    cardOf(form).setAttribute("aria-busy", "true");
  }
});

document.addEventListener("click", (event) => {
  const button = event.target.closest("[data-copy]");
  if (button) copy(button);
});

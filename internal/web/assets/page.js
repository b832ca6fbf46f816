// The page works without this file. It avoids reloads, so that typed text is kept, and shows each test result as it
// arrives. Responses are inserted as text, or as the page that the server rendered.
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

// swap loads a page and replaces our parts with these ids, and the messages, by those of the loaded page.
async function swap(ids, url, options) {
  const [id, ...others] = ids.split(" ");
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
    for (const other of [...others, "messages"]) {
      const found = page.getElementById(other);
      if (found) document.getElementById(other).replaceWith(found);
    }
    enhance();
    if (!options && reply.ok) history.replaceState(null, "", url);
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

// test sends the test events and shows each result as it arrives.
async function test(form) {
  const button = document.getElementById("test-button");
  const status = document.getElementById("test-status");
  if (button.getAttribute("aria-disabled") === "true") return;
  button.setAttribute("aria-disabled", "true");
  status.textContent = "Sending…";
  for (const row of form.querySelectorAll("tbody tr")) result(row, "", "waiting for the response");
  let good = 0, sent = 0;
  try {
    const reply = await fetch(form.action, { method: "POST", body: body(form), headers: { Accept: json } });
    if (reply.status === 401) location.reload();
    if (!reply.ok) {
      const page = new DOMParser().parseFromString(await reply.text(), "text/html");
      throw new Error(page.querySelector("main [role=alert]")?.textContent);
    }
    for await (const line of lines(reply.body)) {
      const outcome = JSON.parse(line);
      result(document.getElementById("result-" + outcome.kind), outcome.status, outcome.text);
      if (outcome.status !== "skipped") sent++;
      if (outcome.status === "ok") good++;
    }
    status.textContent = sent ? good + " of " + sent + " succeeded." : "No URL is saved yet.";
  } catch (error) {
    status.textContent = error instanceof TypeError || !error.message ? "The server is not reachable. Please try again." : error.message;
    for (const row of form.querySelectorAll("tbody tr")) {
      if (!row.querySelector(".badge").classList[1]) result(row, "", "not tested");
    }
  }
  button.removeAttribute("aria-disabled");
}

function result(row, status, text) {
  const badge = row.querySelector(".badge");
  badge.className = "badge" + (status ? " " + status : "");
  badge.textContent = status || "–";
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

// enhance shows the buttons that need this file, and follows what is under way.
function enhance() {
  if (document.querySelector("[data-running]")) setTimeout(follow, 2000);
  for (const button of document.querySelectorAll("[data-copy]")) button.hidden = false;
}
enhance();

// follow loads the state of the URLs again.
async function follow() {
  const reply = await fetch(location.pathname + "?done=recovering").catch(() => undefined);
  const page = new DOMParser().parseFromString(reply ? await reply.text() : "", "text/html");
  const fresh = page.getElementById("endpoints"), part = document.getElementById("endpoints");
  if (fresh && !part.contains(document.activeElement)) part.replaceWith(fresh);
  enhance();
}

async function copy(button) {
  const field = document.getElementById(button.dataset.copy);
  field.select();
  try {
    await navigator.clipboard.writeText(field.value);
  } catch { // not allowed, or not there without https
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
window.addEventListener("beforeunload", (event) => {
  for (const form of document.querySelectorAll("form[data-guard]")) {
    if (form !== sent && unsaved(form)) event.preventDefault();
  }
});

document.addEventListener("submit", (event) => {
  const form = event.target;
  const id = form.dataset.swap;
  if (form.id === "test-form") {
    event.preventDefault();
    test(form);
  } else if (id && form.method === "get") {
    event.preventDefault();
    const url = new URL(form.action);
    url.search = body(form, event.submitter);
    swap(id, url);
  } else if (id) {
    event.preventDefault();
    swap(id, form.action, { method: "POST", body: body(form, event.submitter) });
  } else {
    sent = form;
  }
});

document.addEventListener("click", (event) => {
  const button = event.target.closest("[data-copy]");
  if (button) copy(button);
  const link = event.target.closest("a[data-swap]");
  if (!link || event.button || event.ctrlKey || event.metaKey || event.shiftKey || event.altKey) return;
  event.preventDefault();
  swap(link.dataset.swap, link.href);
});

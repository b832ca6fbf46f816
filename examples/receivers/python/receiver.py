"""A receiver of webhooks, with nothing but the standard library of Python 3.9 or later.

    WEBHOOK_SECRET=whsec_… WEBHOOK_DIR=kept python3 receiver.py

WEBHOOK_AUTH=user:password also checks the credentials of delivery receipts. See ../README.md.
"""

import base64
import hashlib
import hmac
import json
import os
import re
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, unquote

AUTH = os.environ.get("WEBHOOK_AUTH", "")
DIR = os.environ.get("WEBHOOK_DIR", "/var/lib/webhooks")
MAX_BODY = 1 << 20  # bytes
TOLERANCE = 5 * 60  # seconds; an older request may be a recorded one
EVENT_TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", re.ASCII)


def key_of(secret):
    """Returns the bytes that sign requests."""
    try:
        key = base64.b64decode(secret[len("whsec_"):], validate=True)
    except ValueError:
        key = b""
    if not secret.startswith("whsec_") or len(key) < 24:
        sys.exit("WEBHOOK_SECRET: must be the signing secret, whsec_ and base64")
    return key


KEY = key_of(os.environ.get("WEBHOOK_SECRET", ""))


def digest(text):
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


def equal(a, b):
    """Compares in constant time."""
    return hmac.compare_digest(a.encode(), b.encode())


def signed(headers, body):
    """Reports whether one of the signatures matches, and the time is near."""
    sent = headers.get("Webhook-Timestamp", "")
    if not re.fullmatch(r"\d{1,12}", sent, re.ASCII) or abs(time.time() - int(sent)) > TOLERANCE:
        return False
    text = f"{headers.get('Webhook-Id', '')}.{sent}.".encode() + body
    mac = "v1," + base64.b64encode(hmac.digest(KEY, text, "sha256")).decode()
    return any(equal(mac, signature) for signature in headers.get("Webhook-Signature", "").split(" "))


def kind_of(path):
    """Returns the last segment of a URL's path: "dlr" for /dlr, /dlr/, /hooks/dlr and /dlr?x=1."""
    return unquote(path.split("?")[0]).rstrip("/").split("/")[-1]


def keep(name, text):
    """Replaces a file in one step, so that a crash leaves the old or the new one."""
    file = os.path.join(DIR, name)
    with open(file + ".part", "w", encoding="utf-8") as f:
        f.write(text)
    os.replace(file + ".part", file)


def stored_time(name):
    try:
        with open(os.path.join(DIR, name), encoding="utf-8") as f:
            return f.readline().rstrip("\n")
    except FileNotFoundError:
        return ""


applying = threading.Lock()


def apply(kind, event_id, event_time, message, text):
    """Stores an event, unless it was stored before or a later one of the same message was.

    The lock is for requests at the same time. With a database it is one transaction.
    """
    with applying:
        seen, name = "id-" + digest(event_id), f"{kind}-{digest(message)}"
        if os.path.exists(os.path.join(DIR, seen)):
            return
        if event_time >= stored_time(name):
            keep(name, f"{event_time}\n{text}\n")
        keep(seen, "")


def status_of(path, headers, body):
    """Handles a POST and returns the status of the answer."""
    kind = kind_of(path)
    if kind not in ("dlr", "click", "inbound", "revoke_click"):
        return 404
    if not signed(headers, body):
        return 401
    credentials = "Basic " + base64.b64encode(AUTH.encode()).decode()
    if kind == "dlr" and AUTH and not equal(headers.get("Authorization", ""), credentials):
        return 401
    event_id, event_time = headers.get("Webhook-Id", ""), headers.get("Webhook-Event-Time", "")
    if not event_id or not EVENT_TIME.fullmatch(event_time):
        return 400
    try:
        text = body.decode()
        if kind != "revoke_click":
            text = parse_qs(text, errors="strict").get("sms", [""])[0]
        event = json.loads(text)
        # A batch of revocations is a separate event.
        message = event_id if kind == "revoke_click" else str(event["id"])
    except (ValueError, KeyError, TypeError):
        return 400
    apply(kind, event_id, event_time, message, text)
    return 200


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"  # keeps connections
    timeout = 60  # seconds; of idle connections too

    def do_POST(self):
        length = int(self.headers.get("Content-Length", "0"))
        if not 0 <= length <= MAX_BODY:
            self.close_connection = True  # the rest is not read
            return self.answer(413)
        body = self.rfile.read(length)
        try:
            status = status_of(self.path, self.headers, body)
        except Exception as error:  # the event is sent again unless the status is 200
            print(error, file=sys.stderr)
            status = 500
        self.answer(status)

    def answer(self, status):
        self.send_response(status)
        if status == 401:
            self.send_header("WWW-Authenticate", 'Basic realm="webhooks"')
        self.send_header("Content-Length", "0")
        self.end_headers()


if __name__ == "__main__":
    if not os.access(DIR, os.W_OK):
        sys.exit(f"WEBHOOK_DIR: cannot write to {DIR}")
    ThreadingHTTPServer(("127.0.0.1", int(os.environ.get("PORT", "8090"))), Handler).serve_forever()

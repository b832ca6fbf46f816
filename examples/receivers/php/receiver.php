<?php
// A receiver of webhooks, with nothing but the standard library of PHP 8.
//
//   WEBHOOK_SECRET=whsec_… WEBHOOK_DIR=kept php -S 127.0.0.1:8090 receiver.php
//
// WEBHOOK_AUTH=user:password also checks the credentials of delivery receipts. See ../README.md.
declare(strict_types=1);

const MAX_BODY = 1 << 20; // bytes
const TOLERANCE = 300;    // seconds; an older request may be a recorded one

// signed reports whether one of the signatures matches, and the time is near.
function signed(string $key, string $body): bool
{
    $id = $_SERVER['HTTP_WEBHOOK_ID'] ?? '';
    $time = $_SERVER['HTTP_WEBHOOK_TIMESTAMP'] ?? '';
    if (!preg_match('/^\d{1,12}$/D', $time) || abs(time() - (int) $time) > TOLERANCE) {
        return false;
    }
    $mac = 'v1,' . base64_encode(hash_hmac('sha256', "$id.$time.$body", $key, true));
    foreach (explode(' ', $_SERVER['HTTP_WEBHOOK_SIGNATURE'] ?? '') as $signature) {
        if (hash_equals($mac, $signature)) { // constant time
            return true;
        }
    }
    return false;
}

// kind returns the last segment of the URL's path: "dlr" for /dlr, /dlr/, /hooks/dlr and /dlr?x=1.
function kind(): string
{
    $path = rtrim(rawurldecode(explode('?', $_SERVER['REQUEST_URI'])[0]), '/');
    return substr((string) strrchr($path, '/'), 1);
}

// keep replaces a file in one step, so that a crash leaves the old or the new one.
function keep(string $file, string $text): void
{
    if (file_put_contents("$file.part", $text) !== strlen($text) || !rename("$file.part", $file)) {
        throw new RuntimeException("write $file");
    }
}

// apply stores an event, unless it was stored before or a later one of the same message was. The lock is for requests
// at the same time. With a database it is one transaction.
function apply(string $dir, string $kind, string $id, string $time, string $message, string $json): void
{
    $lock = fopen("$dir/lock", 'c');
    if ($lock === false || !flock($lock, LOCK_EX)) {
        throw new RuntimeException("lock $dir");
    }
    $seen = "$dir/id-" . hash('sha256', $id);
    if (!is_file($seen)) {
        $file = "$dir/$kind-" . hash('sha256', $message);
        $stored = is_file($file) ? explode("\n", file_get_contents($file))[0] : '';
        if (strcmp($time, $stored) >= 0) {
            keep($file, "$time\n$json\n");
        }
        keep($seen, '');
    }
    fclose($lock);
}

// status handles the request and returns the status of the answer.
function status(): int
{
    $secret = (string) getenv('WEBHOOK_SECRET');
    $key = str_starts_with($secret, 'whsec_') ? (string) base64_decode(substr($secret, 6), true) : '';
    if (strlen($key) < 24) {
        throw new RuntimeException('WEBHOOK_SECRET: must be the signing secret, whsec_ and base64');
    }
    $kind = kind();
    if (!in_array($kind, ['dlr', 'click', 'inbound', 'revoke_click'], true)) {
        return 404;
    }
    if ($_SERVER['REQUEST_METHOD'] !== 'POST') {
        return 405;
    }
    $body = (string) file_get_contents('php://input', length: MAX_BODY + 1);
    if (strlen($body) > MAX_BODY) {
        return 413;
    }
    if (!signed($key, $body)) {
        return 401;
    }
    $auth = (string) getenv('WEBHOOK_AUTH');
    $sent = ($_SERVER['PHP_AUTH_USER'] ?? '') . ':' . ($_SERVER['PHP_AUTH_PW'] ?? '');
    if ($kind === 'dlr' && $auth !== '' && !hash_equals($auth, $sent)) {
        return 401;
    }
    $id = $_SERVER['HTTP_WEBHOOK_ID'] ?? '';
    $time = $_SERVER['HTTP_WEBHOOK_EVENT_TIME'] ?? '';
    if ($id === '' || !preg_match('/^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z$/D', $time)) {
        return 400;
    }
    $json = $body;
    $message = $id; // a batch of revocations is a separate event
    if ($kind !== 'revoke_click') {
        parse_str($body, $form);
        $json = is_string($form['sms'] ?? null) ? $form['sms'] : '';
        // json_decode refuses a text with half of a surrogate pair. The message's id is the first key of the JSON, and
        // the signature proves that the service made the body.
        if (!preg_match('/^\{"id":("(?:[^"\\\\]++|\\\\.)*+"|[^,}]++)[,}]/', $json, $first)) {
            return 400;
        }
        $message = $first[1];
    } elseif (!str_starts_with($json, '{')) {
        return 400;
    }
    apply((string) (getenv('WEBHOOK_DIR') ?: '/var/lib/webhooks'), $kind, $id, $time, $message, $json);
    return 200;
}

$status = 500; // the event is sent again unless the status is 200
try {
    $status = status();
} catch (Throwable $error) {
    error_log($error->getMessage());
}
if ($status === 401) {
    header('WWW-Authenticate: Basic realm="webhooks"');
}
http_response_code($status);

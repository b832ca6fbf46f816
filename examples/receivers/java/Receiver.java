import com.sun.net.httpserver.Headers;
import com.sun.net.httpserver.HttpExchange;
import com.sun.net.httpserver.HttpServer;
import java.io.IOException;
import java.io.InputStream;
import java.net.InetSocketAddress;
import java.net.URLDecoder;
import java.nio.charset.StandardCharsets;
import java.nio.file.Files;
import java.nio.file.Path;
import java.nio.file.StandardCopyOption;
import java.security.GeneralSecurityException;
import java.security.MessageDigest;
import java.util.Base64;
import java.util.HexFormat;
import java.util.Set;
import java.util.concurrent.Executors;
import java.util.regex.Matcher;
import java.util.regex.Pattern;
import javax.crypto.Mac;
import javax.crypto.spec.SecretKeySpec;

/**
 * A receiver of webhooks, with nothing but the JDK (17 or later).
 *
 * <pre>WEBHOOK_SECRET=whsec_… WEBHOOK_DIR=kept java Receiver.java</pre>
 *
 * WEBHOOK_AUTH=user:password also checks the credentials of delivery receipts. See ../README.md.
 */
public class Receiver {
    static final Set<String> KINDS = Set.of("dlr", "click", "inbound", "revoke_click");
    static final int MAX_BODY = 1 << 20; // bytes
    static final long TOLERANCE = 5 * 60; // seconds; an older request may be a recorded one
    static final Pattern EVENT_TIME = Pattern.compile("\\d{4}-\\d\\d-\\d\\dT\\d\\d:\\d\\d:\\d\\d\\.\\d{3}Z");
    /** The message's id is the first key of the JSON. The signature proves that the service made the body. */
    static final Pattern MESSAGE = Pattern.compile("^\\{\"id\":(\"(?:[^\"\\\\]++|\\\\.)*+\"|[^,}]++)[,}]");

    final byte[] key;
    final String auth;
    final Path dir;

    Receiver(String secret, String auth, Path dir) {
        this.key = secret.startsWith("whsec_") ? Base64.getDecoder().decode(secret.substring(6)) : new byte[0];
        this.auth = auth;
        this.dir = dir;
        if (key.length < 24) {
            throw new IllegalArgumentException("WEBHOOK_SECRET: must be the signing secret, whsec_ and base64");
        }
        if (!Files.isWritable(dir)) {
            throw new IllegalArgumentException("WEBHOOK_DIR: cannot write to " + dir);
        }
    }

    public static void main(String[] args) throws IOException {
        var env = System.getenv();
        var receiver = new Receiver(env.getOrDefault("WEBHOOK_SECRET", ""), env.getOrDefault("WEBHOOK_AUTH", ""),
                Path.of(env.getOrDefault("WEBHOOK_DIR", "/var/lib/webhooks")));
        int port = Integer.parseInt(env.getOrDefault("PORT", "8090"));
        var server = HttpServer.create(new InetSocketAddress("127.0.0.1", port), 0);
        server.setExecutor(Executors.newFixedThreadPool(8));
        server.createContext("/", receiver::handle);
        server.start();
    }

    void handle(HttpExchange exchange) throws IOException {
        int status = 500; // the event is sent again unless the status is 200
        try (InputStream in = exchange.getRequestBody()) {
            byte[] body = in.readNBytes(MAX_BODY + 1);
            status = body.length > MAX_BODY ? 413 : status(exchange, body);
        } catch (Exception error) {
            System.err.println(error);
        }
        if (status == 401) {
            exchange.getResponseHeaders().set("WWW-Authenticate", "Basic realm=\"webhooks\"");
        }
        exchange.sendResponseHeaders(status, -1);
        exchange.close();
    }

    /** Handles a request and returns the status of the answer. */
    int status(HttpExchange exchange, byte[] body) throws IOException, GeneralSecurityException {
        Headers headers = exchange.getRequestHeaders();
        String kind = kind(exchange.getRequestURI().getPath());
        if (!KINDS.contains(kind)) {
            return 404;
        }
        if (!exchange.getRequestMethod().equals("POST")) {
            return 405;
        }
        if (!signed(headers, body)) {
            return 401;
        }
        String credentials = "Basic " + Base64.getEncoder().encodeToString(auth.getBytes(StandardCharsets.UTF_8));
        if (kind.equals("dlr") && !auth.isEmpty() && !equal(header(headers, "Authorization"), credentials)) {
            return 401;
        }
        String id = header(headers, "Webhook-Id");
        String time = header(headers, "Webhook-Event-Time");
        if (id.isEmpty() || !EVENT_TIME.matcher(time).matches()) {
            return 400;
        }
        String text = new String(body, StandardCharsets.UTF_8);
        String json = kind.equals("revoke_click") ? text : sms(text);
        String message = id; // a batch of revocations is a separate event
        if (!kind.equals("revoke_click")) {
            Matcher first = MESSAGE.matcher(json);
            if (!first.find()) {
                return 400;
            }
            message = first.group(1);
        } else if (!json.startsWith("{")) {
            return 400;
        }
        apply(kind, id, time, message, json);
        return 200;
    }

    /** Reports whether one of the signatures matches, and the time is near. */
    boolean signed(Headers headers, byte[] body) throws GeneralSecurityException {
        String time = header(headers, "Webhook-Timestamp");
        long now = System.currentTimeMillis() / 1000;
        if (!time.matches("\\d{1,12}") || Math.abs(now - Long.parseLong(time)) > TOLERANCE) {
            return false;
        }
        Mac mac = Mac.getInstance("HmacSHA256");
        mac.init(new SecretKeySpec(key, "HmacSHA256"));
        mac.update((header(headers, "Webhook-Id") + "." + time + ".").getBytes(StandardCharsets.UTF_8));
        String wanted = "v1," + Base64.getEncoder().encodeToString(mac.doFinal(body));
        boolean found = false;
        for (String signature : header(headers, "Webhook-Signature").split(" ")) {
            found |= equal(signature, wanted);
        }
        return found;
    }

    /** Returns the last segment of a URL's path: "dlr" for /dlr, /dlr/, /hooks/dlr and /dlr?x=1. */
    static String kind(String path) {
        String trimmed = path == null ? "" : path.replaceAll("/+$", "");
        return trimmed.substring(trimmed.lastIndexOf('/') + 1);
    }

    /** Returns the form's field sms, or "". */
    static String sms(String form) {
        for (String pair : form.split("&")) {
            if (pair.startsWith("sms=")) {
                return URLDecoder.decode(pair.substring(4), StandardCharsets.UTF_8);
            }
        }
        return "";
    }

    /**
     * Stores an event, unless it was stored before or a later one of the same message was. One request at a time. With
     * a database it is one transaction.
     */
    synchronized void apply(String kind, String id, String time, String message, String json)
            throws IOException, GeneralSecurityException {
        Path seen = dir.resolve("id-" + hex(id));
        if (Files.exists(seen)) {
            return;
        }
        Path file = dir.resolve(kind + "-" + hex(message));
        String stored = Files.exists(file) ? Files.readString(file).split("\n")[0] : "";
        if (time.compareTo(stored) >= 0) {
            keep(file, time + "\n" + json + "\n");
        }
        keep(seen, "");
    }

    /** Replaces a file in one step, so that a crash leaves the old or the new one. */
    static void keep(Path file, String text) throws IOException {
        Path part = file.resolveSibling(file.getFileName() + ".part");
        Files.writeString(part, text);
        Files.move(part, file, StandardCopyOption.ATOMIC_MOVE);
    }

    static String header(Headers headers, String name) {
        String value = headers.getFirst(name);
        return value == null ? "" : value;
    }

    /** Compares in constant time. */
    static boolean equal(String a, String b) {
        return MessageDigest.isEqual(a.getBytes(StandardCharsets.UTF_8), b.getBytes(StandardCharsets.UTF_8));
    }

    static String hex(String text) throws GeneralSecurityException {
        byte[] hash = MessageDigest.getInstance("SHA-256").digest(text.getBytes(StandardCharsets.UTF_8));
        return HexFormat.of().formatHex(hash);
    }
}

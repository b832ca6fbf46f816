package http1

import (
	"bufio"
	"bytes"
	"errors"
	"io"
	"math"
	"net/http"
	"strconv"
	"strings"
	"time"
)

const (
	// maxInlineWrite is the size up to which a message fits into the peer's receive buffer, so that writing it does not
	// block for long. A larger message is written by a goroutine, since the reply may arrive before all of it is sent.
	maxInlineWrite = 32 << 10
	// maxWriteWait is how long to wait for that goroutine after the reply. Usually it has already ended.
	maxWriteWait = 50 * time.Millisecond
	bufferSize   = 4 << 10
)

type buffer [bufferSize]byte

// exchange is one request and its reply.
type exchange struct {
	conn             *conn
	buf              *buffer
	begins           *Beginning
	maxHead, maxBody int
}

// do sends message and reads the reply. reusable reports whether the connection can carry another request.
func (x *exchange) do(message []byte) (status int, reusable bool, err error) {
	if len(message) > maxInlineWrite {
		x.conn.used = true
		return x.writeAsync(message)
	}
	sent, n, err := x.conn.writeRead(message, x.buf[:])
	switch {
	case err != nil:
		return 0, false, err
	case sent < len(message):
		return x.writeAsync(message[sent:])
	}
	return x.read(n)
}

// writeAsync sends message on a goroutine while it reads the reply.
func (x *exchange) writeAsync(message []byte) (status int, reusable bool, err error) {
	written := make(chan error, 1)
	go func() {
		_, err := x.conn.Write(message)
		written <- err
	}()
	status, reusable, err = x.read(0)
	if !reusable || err != nil {
		_ = x.conn.Close() // ends the write
		<-written          //nolint:errcheck // only waits for the goroutine
		return status, false, err
	}
	enough := time.NewTimer(maxWriteWait)
	defer enough.Stop()
	select {
	case failed := <-written:
		return status, failed == nil, nil
	case <-enough.C:
		_ = x.conn.Close()
		<-written //nolint:errcheck // only waits for the goroutine
		return status, false, nil
	}
}

// read reads the reply. Its first n bytes are in the buffer.
func (x *exchange) read(n int) (status int, reusable bool, err error) {
	h, ok := parseHead(x.buf[:n])
	if !ok {
		return x.readGeneric(n)
	}
	x.conn.noteKeepAlive(h.keep)
	left := h.length - int64(n-h.size)
	x.begins.add(x.buf[h.size:min(n, h.size+int(min(h.length, bufferSize)))])
	if left < 0 { // excess data must not become the next reply
		return h.status, false, nil
	}
	room := int64(x.maxBody - (n - h.size))
	for left > 0 && room > 0 {
		n, err := x.conn.Read(x.buf[:])
		x.begins.add(x.buf[:min(int64(n), left)])
		left, room = left-int64(n), room-int64(n)
		if err != nil && left > 0 {
			return h.status, false, unexpected(err)
		}
	}
	return h.status, !h.close && left == 0, nil // left < 0: excess data, as above
}

func unexpected(err error) error {
	if errors.Is(err, io.EOF) {
		return io.ErrUnexpectedEOF
	}
	return err
}

// head is a reply's head in the common form.
type head struct {
	status int
	size   int   // bytes of the head
	length int64 // bytes of the body
	close  bool  // the peer closes the connection after this reply
	keep   int   // seconds for which the peer keeps the connection, or -1 if not announced
}

// parseHead parses a head of the common form. It returns false if the head has another form or is incomplete.
func parseHead(p []byte) (h head, ok bool) {
	const version = "HTTP/1.1 "
	if len(p) < len(version)+4 || string(p[:len(version)]) != version {
		return h, false
	}
	for _, c := range p[len(version) : len(version)+3] {
		if c-'0' > 9 {
			return h, false
		}
		h.status = h.status*10 + int(c-'0')
	}
	if rest := p[len(version)+3:]; h.status < 200 || rest[0] != ' ' && !bytes.HasPrefix(rest, []byte("\r\n")) {
		return h, false
	}
	h.length, h.keep = -1, -1
	for first := true; ; first = false {
		end := bytes.IndexByte(p[h.size:], '\n')
		if end < 1 || p[h.size+end-1] != '\r' {
			return h, false
		}
		line := p[h.size : h.size+end-1]
		h.size += end + 1
		switch {
		case len(line) == 0:
			if bodiless(h.status) {
				h.length = max(h.length, 0)
				return h, h.length == 0
			}
			return h, h.length >= 0
		case !first && !h.field(line):
			return h, false
		}
	}
}

// field parses one header line. It returns false if the line is not of the common form.
func (h *head) field(line []byte) bool {
	colon := bytes.IndexByte(line, ':')
	if colon < 1 || line[0] <= ' ' || line[colon-1] <= ' ' {
		return false
	}
	value := bytes.Trim(line[colon+1:], " \t")
	switch name := line[:colon]; {
	case colon == 14 && strings.EqualFold(string(name), "Content-Length"):
		return h.length < 0 && h.setLength(value)
	case colon == 10 && strings.EqualFold(string(name), "Connection"):
		if strings.EqualFold(string(value), "close") {
			h.close = true
			return true
		}
		return strings.EqualFold(string(value), "keep-alive")
	case colon == 10 && strings.EqualFold(string(name), "Keep-Alive"):
		h.keep = keepAlive(string(value))
	case colon == 17 && strings.EqualFold(string(name), "Transfer-Encoding"):
		return strings.EqualFold(string(value), "identity") // the same as no field
	}
	return true
}

// keepAlive returns the seconds of timeout=N in a Keep-Alive field, or -1 if it has none.
func keepAlive(value string) int {
	for part := range strings.SplitSeq(value, ",") {
		name, digits, _ := strings.Cut(strings.TrimSpace(part), "=")
		if !strings.EqualFold(strings.TrimSpace(name), "timeout") {
			continue
		}
		if n, err := strconv.ParseUint(strings.Trim(digits, " \t\""), 10, 31); err == nil {
			return int(n)
		}
	}
	return -1
}

// noteKeepAlive stores for how many seconds the peer keeps the connection; -1 means that it did not announce it. The
// peer counts from when it sent the reply, and the next request takes time to arrive, so a margin is subtracted.
func (c *conn) noteKeepAlive(seconds int) {
	if seconds < 0 {
		return
	}
	said := time.Duration(seconds) * time.Second
	c.keep, c.announced = min(said-min(time.Second, said/5), maxKeep), true
}

func (h *head) setLength(digits []byte) bool {
	if len(digits) == 0 || len(digits) > 18 {
		return false
	}
	h.length = 0
	for _, c := range digits {
		if c-'0' > 9 {
			return false
		}
		h.length = h.length*10 + int64(c-'0')
	}
	return true
}

// readGeneric reads any reply with net/http's reader. Its first n bytes are in the buffer.
func (x *exchange) readGeneric(n int) (status int, reusable bool, err error) {
	in := &limited{r: io.MultiReader(bytes.NewReader(bytes.Clone(x.buf[:n])), x.conn), left: x.maxHead}
	br := bufio.NewReaderSize(in, bufferSize)
	for {
		text, err := readHead(br)
		x.conn.answered = x.conn.answered || len(text) > 0
		if err != nil {
			return 0, false, unexpected(err)
		}
		if interim(text) {
			continue
		}
		rest := bufio.NewReaderSize(io.MultiReader(bytes.NewReader(text), br), bufferSize)
		resp, err := http.ReadResponse(rest, post) //nolint:bodyclose // the connection is closed instead
		if err != nil {
			return 0, false, unexpected(err)
		}
		if resp.StatusCode < 200 && resp.StatusCode != http.StatusSwitchingProtocols {
			return 0, false, errStatus
		}
		if resp.StatusCode == http.StatusSwitchingProtocols {
			return resp.StatusCode, false, nil // another protocol follows, not a body
		}
		x.conn.noteKeepAlive(keepAlive(resp.Header.Get("Keep-Alive")))
		in.left = math.MaxInt // drain bounds the body, and net/http the chunk headers
		whole, err := x.drain(resp.Body)
		bounded := resp.ContentLength >= 0 || len(resp.TransferEncoding) > 0
		if bodiless(resp.StatusCode) && announcesBody(resp) {
			bounded = false
		}
		return resp.StatusCode, whole && bounded && !resp.Close && br.Buffered() == 0 && rest.Buffered() == 0, err
	}
}

// bodiless reports whether replies with a status have no body.
func bodiless(status int) bool {
	return status == http.StatusNoContent || status == http.StatusNotModified
}

// announcesBody reports whether a head describes a body. If its status forbids one, some servers send it all the same,
// and it must not become the next reply.
func announcesBody(resp *http.Response) bool {
	length := resp.Header.Get("Content-Length")
	return len(resp.TransferEncoding) > 0 || length != "" && length != "0"
}

var errStatus = errors.New("the reply's status is not a number of three digits")

// interim reports whether a head belongs to an interim reply (1xx), except a switch of protocols.
func interim(head []byte) bool {
	const version = "HTTP/1."
	if len(head) < len(version)+6 || string(head[:len(version)]) != version {
		return false
	}
	minor, blank, status, after := head[7], head[8], head[9:12], head[12]
	return digit(minor) && blank == ' ' && status[0] == '1' && digit(status[1]) && digit(status[2]) &&
		string(status) != "101" && (after == ' ' || after == '\r' || after == '\n')
}

func digit(c byte) bool { return c-'0' <= 9 }

// isIdentity reports whether a line is "Transfer-Encoding: identity". It means the same as no field, but net/http
// rejects it.
func isIdentity(line []byte) bool {
	name, value, ok := bytes.Cut(line, []byte(":"))
	return ok && len(name) == 17 && strings.EqualFold(string(name), "Transfer-Encoding") &&
		strings.EqualFold(string(bytes.TrimSpace(value)), "identity")
}

// readHead reads a reply's head up to its blank line, without "Transfer-Encoding: identity". If it fails, it also
// returns the part that it has read.
func readHead(br *bufio.Reader) (text []byte, err error) {
	for {
		begin := len(text)
		for more := true; more; {
			var part []byte
			part, err = br.ReadSlice('\n')
			text = append(text, part...)
			more = errors.Is(err, bufio.ErrBufferFull)
		}
		if err != nil {
			return text, err
		}
		switch line := text[begin:]; {
		case len(line) <= 2 && len(bytes.Trim(line, "\r\n")) == 0:
			return text, nil
		case isIdentity(line):
			text = text[:begin]
		}
	}
}

var post = &http.Request{Method: http.MethodPost}

// drain reads a body to its end, so that the connection can be reused, or to the limit.
func (x *exchange) drain(body io.Reader) (whole bool, err error) {
	for read := 0; read < x.maxBody; {
		n, err := body.Read(x.buf[:min(bufferSize, x.maxBody-read)])
		x.begins.add(x.buf[:n])
		read += n
		if errors.Is(err, io.EOF) && !errors.Is(err, io.ErrUnexpectedEOF) {
			return true, nil
		}
		if err != nil {
			return false, err
		}
	}
	return false, nil
}

// limited reads at most left bytes from r, then fails with ErrHeadTooLarge.
type limited struct {
	r    io.Reader
	left int
}

func (l *limited) Read(p []byte) (int, error) {
	if l.left <= 0 {
		return 0, ErrHeadTooLarge
	}
	n, err := l.r.Read(p[:min(len(p), l.left)])
	l.left -= n
	return n, err
}

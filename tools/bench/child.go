package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"
	"time"

	"github.com/smshooks/smshooks/tools/bench/proc"
)

// child is a process that is measured, or that helps to measure. Its standard error is written to a file, like a
// service's log.
type child struct {
	name  string
	cmd   *exec.Cmd
	in    io.WriteCloser
	log   *os.File
	pid   int // of the process whose cost is measured
	born  time.Time
	notes chan proc.Note // its notes; closed when it has ended
	ended chan struct{}  // closed when it has ended
	// remove ends what the process has started elsewhere; nil = nothing
	remove func() error
}

// spawn starts a program, this one or the service, with a command line.
func (b *bench) spawn(name, binary string, env []string, args ...string) (*child, error) {
	log, err := os.CreateTemp(b.dir, strings.ReplaceAll(name, " ", "-")+"-*.log")
	if err != nil {
		return nil, fmt.Errorf("log of %s: %w", name, err)
	}
	c := &child{name: name, cmd: exec.Command(binary, args...), log: log, notes: make(chan proc.Note, 16), ended: make(chan struct{})}
	c.cmd.Stderr, c.cmd.SysProcAttr = log, diesWithUs()
	c.cmd.Env = append(environ(), env...)
	if c.in, err = c.cmd.StdinPipe(); err != nil {
		return nil, fmt.Errorf("start %s: %w", name, err)
	}
	out, err := c.cmd.StdoutPipe()
	if err != nil {
		return nil, fmt.Errorf("start %s: %w", name, err)
	}
	c.born = time.Now()
	if err := c.cmd.Start(); err != nil {
		log.Close()
		return nil, fmt.Errorf("start %s: %w", name, err)
	}
	c.pid = c.cmd.Process.Pid
	go func() {
		defer close(c.notes)
		for dec := json.NewDecoder(out); ; {
			var n proc.Note
			if dec.Decode(&n) != nil {
				break
			}
			c.notes <- n
		}
		_, _ = io.Copy(io.Discard, out) // until it ends
		close(c.ended)
	}()
	return c, nil
}

// environ is this process's environment without the settings of a service, which would change what is measured.
func environ() []string {
	var vars []string
	for _, v := range os.Environ() {
		if !strings.HasPrefix(v, "SMSHOOKS_") {
			vars = append(vars, v)
		}
	}
	return vars
}

// kill ends the process and waits for its end.
func (c *child) kill() {
	if c.remove != nil {
		_ = c.remove() // it is removed, too, when it ends by itself
	}
	_ = c.cmd.Process.Kill()
	for range c.notes { // let the reader reach the end of the pipe before Wait closes it
	}
	_ = c.cmd.Wait() // the error only reports the kill
	_ = c.log.Close()
}

// next waits for the note of an event and discards others.
func (c *child) next(ctx context.Context, event string) (proc.Note, error) {
	for {
		select {
		case n, open := <-c.notes:
			if !open {
				return n, fmt.Errorf("%s ended: %s", c.name, c.tail())
			}
			if n.Event == event {
				return n, nil
			}
		case <-ctx.Done():
			return proc.Note{}, fmt.Errorf("waiting for %s of %s: %w", event, c.name, context.Cause(ctx))
		}
	}
}

// tail returns the end of its log.
func (c *child) tail() string {
	data, err := os.ReadFile(c.log.Name())
	if err != nil {
		return err.Error()
	}
	return string(bytes.TrimSpace(data[max(0, len(data)-2000):]))
}

// cpu returns the user and system time of the process.
func (c *child) cpu() (time.Duration, error) { return proc.CPU(c.pid) }

// peak returns the peak of its resident memory, in bytes.
func (c *child) peak() (float64, error) { return proc.Peak(c.pid) }

// nextWhile is like next, but fails if other, which should cause the event, has ended.
func (c *child) nextWhile(ctx context.Context, event string, other *child) (proc.Note, error) {
	for {
		select {
		case n, open := <-c.notes:
			if !open {
				return n, fmt.Errorf("%s ended: %s", c.name, c.tail())
			}
			if n.Event == event {
				return n, nil
			}
		case <-other.ended:
			return proc.Note{}, fmt.Errorf("%s ended: %s", other.name, other.tail())
		case <-ctx.Done():
			return proc.Note{}, fmt.Errorf("waiting for the %s request of %s: %w; its log: %s", event, other.name, context.Cause(ctx), other.tail())
		}
	}
}

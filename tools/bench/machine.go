package main

import (
	"os"
	"runtime"
	"strconv"
	"strings"

	"github.com/smshooks/smshooks/tools/bench/result"
)

// machine returns a description of this machine. Unknown parts are empty.
func (b *bench) machine() result.Machine {
	m := result.Machine{
		Cores: runtime.NumCPU(), OS: runtime.GOOS + "/" + runtime.GOARCH, Go: runtime.Version(), Version: b.version,
		CPU: field("/proc/cpuinfo", "model name"),
	}
	if release, err := os.ReadFile("/proc/sys/kernel/osrelease"); err == nil {
		kernel, _, _ := strings.Cut(strings.TrimSpace(string(release)), "-") // what follows is the builder's
		m.OS += ", kernel " + kernel
	}
	if load, err := os.ReadFile("/proc/loadavg"); err == nil {
		m.Load, _, _ = strings.Cut(string(load), " ")
	}
	if kib, err := strconv.ParseInt(strings.TrimSuffix(field("/proc/meminfo", "MemTotal"), " kB"), 10, 64); err == nil {
		m.Memory = kib * 1024
	}
	return m
}

// field returns the value of "name: value" in a file.
func field(file, name string) string {
	data, err := os.ReadFile(file)
	if err != nil {
		return ""
	}
	for line := range strings.Lines(string(data)) {
		if key, value, ok := strings.Cut(line, ":"); ok && strings.TrimSpace(key) == name {
			return strings.TrimSpace(value)
		}
	}
	return ""
}

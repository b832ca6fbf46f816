package harness

import (
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"sync"
	"syscall"
)

// Ports for servers are below the kernel's range for outgoing connections. Otherwise a client that keeps dialling a
// stopped server might at some time get the server's own port, connect to itself and block the server's restart.
const (
	firstPort = 20000
	blocks    = 100
	blockSize = 100
)

// ports holds the blocks of ports that this process has reserved. A file lock per block separates test processes that
// run at the same time. The kernel releases it when the process ends.
var ports struct {
	sync.Mutex
	locks []*os.File // one per reserved block; kept open because closing one releases it
	next  int        // block to try next
	free  []int      // unused ports of the last block
}

// freePort returns a loopback TCP port that is not in use, and that no other test process gets while this one runs.
func freePort() (int, error) {
	ports.Lock()
	defer ports.Unlock()
	for {
		if len(ports.free) == 0 {
			if err := reserveBlock(); err != nil {
				return 0, err
			}
		}
		port := ports.free[0]
		ports.free = ports.free[1:]
		if unused(port) {
			return port, nil
		}
	}
}

// reserveBlock reserves the next block of ports that no other test process has. Processes begin at different blocks, in
// case an earlier one left something behind.
func reserveBlock() error {
	dir := filepath.Join(os.TempDir(), fmt.Sprintf("smshooks-test-ports-%d", os.Getuid()))
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return fmt.Errorf("reserve ports: %w", err)
	}
	for ports.next < blocks {
		block := (os.Getpid() + ports.next) % blocks
		ports.next++
		lock, err := os.OpenFile(filepath.Join(dir, strconv.Itoa(block)), os.O_CREATE|os.O_RDWR, 0o600)
		if err != nil {
			return fmt.Errorf("reserve ports: %w", err)
		}
		if err := syscall.Flock(int(lock.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
			_ = lock.Close()
			continue
		}
		ports.locks = append(ports.locks, lock)
		for n := range blockSize {
			ports.free = append(ports.free, firstPort+block*blockSize+n)
		}
		return nil
	}
	return fmt.Errorf("reserve ports: no free block from port %d on: other test processes have them all", firstPort)
}

// unused reports whether a port is not in use. No process is forked meanwhile: until it executes, a child would hold
// the port with its copy of the socket.
func unused(port int) bool {
	syscall.ForkLock.RLock()
	defer syscall.ForkLock.RUnlock()
	l, err := net.Listen("tcp", loopback(port))
	if err != nil {
		return false
	}
	return l.Close() == nil
}

package harness

import (
	"os"
	"strconv"
	"syscall"
)

// diesWithUs makes a child end with the test process, even if that is killed.
func diesWithUs() *syscall.SysProcAttr { return &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL} }

// alive reports whether a process exists.
func alive(pid int) bool {
	_, err := os.Stat("/proc/" + strconv.Itoa(pid))
	return err == nil
}

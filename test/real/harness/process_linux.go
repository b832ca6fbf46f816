package harness

import (
	"os"
	"strconv"
	"syscall"
)

// diesWithUs lets a child end with the test process, even if that is killed.
func diesWithUs() *syscall.SysProcAttr { return &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL} }

// alive reports whether a process is there.
func alive(pid int) bool {
	_, err := os.Stat("/proc/" + strconv.Itoa(pid))
	return err == nil
}

package main

import "syscall"

// diesWithUs makes a child end with this process, even if that is killed.
func diesWithUs() *syscall.SysProcAttr { return &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL} }

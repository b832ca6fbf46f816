package main

import "syscall"

// diesWithUs lets a child end with this process, even if that is killed.
func diesWithUs() *syscall.SysProcAttr { return &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL} }

//go:build !linux

package bench

import "syscall"

func diesWithUs() *syscall.SysProcAttr { return nil }

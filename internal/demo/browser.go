package demo

import (
	"fmt"
	"os/exec"
	"runtime"
)

// openBrowser opens url in the user's browser. It does not wait for it.
func openBrowser(url string) error {
	name, args := browser(runtime.GOOS, url)
	cmd := exec.Command(name, args...)
	if err := cmd.Start(); err != nil {
		return fmt.Errorf("%s: %w; open %s yourself", name, err, url)
	}
	go func() { _ = cmd.Wait() }() // the exit code does not matter
	return nil
}

// browser returns the command that opens url on a system.
func browser(system, url string) (name string, args []string) {
	switch system {
	case "darwin":
		return "open", []string{url}
	case "windows":
		return "rundll32", []string{"url.dll,FileProtocolHandler", url}
	}
	return "xdg-open", []string{url}
}

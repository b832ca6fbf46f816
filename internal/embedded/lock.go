package embedded

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
)

// errHeld is returned by tryLock if another process holds the lock.
var errHeld = errors.New("held by another process")

// lockDir locks dir for this process. The lock is held while the returned file is open, so a crash
// releases it. The file itself stays.
func lockDir(dir string) (*os.File, error) {
	path := filepath.Join(dir, "lock")
	file, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, fmt.Errorf("embedded.dir: %w", err)
	}
	if err := tryLock(file); err != nil {
		file.Close()
		if errors.Is(err, errHeld) {
			return nil, fmt.Errorf("embedded.dir: %s is in use by another process; stop it or choose another directory", dir)
		}
		return nil, fmt.Errorf("lock %s: %w", path, err)
	}
	return file, nil
}

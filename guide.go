// Package smshooks holds the documents that the account page offers to customers.
package smshooks

import "embed"

// Guide has the receivers' guide and the sample receivers, by their paths in the repository.
//
//go:embed docs/receivers.md docs/bodies.md examples/receiver/main.go
//go:embed examples/receivers/php/receiver.php examples/receivers/node/receiver.mjs
//go:embed examples/receivers/python/receiver.py examples/receivers/java/Receiver.java
var Guide embed.FS

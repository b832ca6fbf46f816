package offsets_test

import (
	"fmt"

	"github.com/smshooks/smshooks/pkg/offsets"
)

// Records finish in any order. The committed offset never passes an outstanding record. The state carries the finished
// offsets above it, so that the next owner does not process those records again.
func Example() {
	t := offsets.New(40, "")
	for o := range int64(5) {
		t.Track(40 + o)
	}
	t.Finish(0, 40)
	t.Finish(0, 42)
	t.Finish(0, 43)
	next, state := t.Snapshot(4096)
	fmt.Println("commit", next, "with", state)

	owner := offsets.New(next, state)
	for o := next; o < 45; o++ {
		if _, fresh := owner.Track(o); fresh {
			fmt.Println("handle", o)
		}
	}
	// Output:
	// commit 41 with 1:KQEC
	// handle 41
	// handle 44
}

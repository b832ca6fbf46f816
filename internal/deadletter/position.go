package deadletter

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/smshooks/smshooks/internal/compacted"
)

// Position is the progress of a replay. The zero value means that it has not started.
type Position struct {
	Topic  string `json:"topic"`
	Asked  string `json:"asked"`  // the flags of the command
	Filter Filter `json:"filter"` // the flags with absolute times
	Sent   int    `json:"sent"`   // events that were stored
	// Partitions are those of the topic when the replay began.
	Partitions map[int32]Span `json:"partitions"`
}

// Span is the offsets Next ≤ o < End of a partition, which remain to be read.
type Span struct {
	Next int64 `json:"next"`
	End  int64 `json:"end"`
}

// Done reports whether nothing is left.
func (p *Position) Done() bool {
	for _, s := range p.Partitions {
		if s.Next < s.End {
			return false
		}
	}
	return p.Partitions != nil
}

func (p *Position) next(partition int32) int64 { return p.Partitions[partition].Next }

// begin stores the range of a new replay in the position, or returns the rest of the range of an interrupted one.
func (r *running) begin(spans map[int32]compacted.Span) (map[int32]compacted.Span, error) {
	p := r.Position
	if p.Partitions == nil {
		p.Topic, p.Filter, p.Partitions = r.store.cfg.Topic, r.Filter, map[int32]Span{}
		for partition, s := range spans {
			p.Partitions[partition] = Span{s.Start, s.End}
		}
		return spans, r.save()
	}
	if p.Topic != r.store.cfg.Topic {
		return nil, fmt.Errorf("the position belongs to topic %s, not to %s", p.Topic, r.store.cfg.Topic)
	}
	for partition, s := range spans {
		previous := p.Partitions[partition]
		if s.End < previous.End {
			return nil, fmt.Errorf("the position is %d in partition %d of topic %s, which ends at %d: "+
				"the topic was created again, start with a new position", previous.End, partition, p.Topic, s.End)
		}
		if s.End = previous.End; s.Start < s.End {
			spans[partition] = s
		} else {
			delete(spans, partition)
		}
	}
	return spans, nil
}

// done moves the position to the end.
func (r *running) done() error {
	if r.Position == nil {
		return nil
	}
	for partition, s := range r.Position.Partitions {
		r.Position.Partitions[partition] = Span{s.End, s.End}
	}
	return r.save()
}

func (r *running) save() error {
	if r.Try != nil || r.Save == nil {
		return nil
	}
	return r.Save(r.Position)
}

// ReadPosition returns the position stored in a file, or the beginning if there is no such file.
func ReadPosition(file string) (*Position, error) {
	p := &Position{}
	raw, err := os.ReadFile(file)
	if errors.Is(err, fs.ErrNotExist) {
		return p, nil
	}
	if err == nil {
		err = json.Unmarshal(raw, p)
	}
	if err == nil && p.Partitions == nil {
		err = errors.New("no partitions in it; delete the file to start again")
	}
	if err != nil {
		return nil, fmt.Errorf("read position %s: %w", file, err)
	}
	return p, nil
}

// WritePosition stores a position in a file atomically.
func WritePosition(file string, p *Position) (err error) {
	defer func() {
		if err != nil {
			err = fmt.Errorf("write position %s: %w", file, err)
		}
	}()
	raw, err := json.Marshal(p)
	if err != nil {
		return err
	}
	f, err := os.CreateTemp(filepath.Dir(file), filepath.Base(file)+".*")
	if err != nil {
		return err
	}
	_, err = f.Write(append(raw, '\n'))
	if err = errors.Join(err, f.Sync(), f.Close()); err == nil {
		err = os.Rename(f.Name(), file)
	}
	if err != nil {
		_ = os.Remove(f.Name())
	}
	return err
}

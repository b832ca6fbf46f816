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

// Position is how far a replay has come. The zero value means that it has not begun.
type Position struct {
	Topic  string `json:"topic"`
	Asked  string `json:"asked"`  // what for, in the words of whoever asked
	Filter Filter `json:"filter"` // the same with its times worked out
	Sent   int    `json:"sent"`   // events stored in all
	// Partitions of the topic that were there at the beginning.
	Partitions map[int32]Span `json:"partitions"`
}

// Span are offsets of a partition: Next ≤ o < End are not done yet.
type Span struct {
	Next int64 `json:"next"`
	End  int64 `json:"end"`
}

// Done tells whether nothing is left.
func (p *Position) Done() bool {
	for _, s := range p.Partitions {
		if s.Next < s.End {
			return false
		}
	}
	return p.Partitions != nil
}

func (p *Position) next(partition int32) int64 { return p.Partitions[partition].Next }

// begin fixes what a replay is about, or takes up what was fixed when it first began.
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
		return nil, fmt.Errorf("the position is one in topic %s, not in %s", p.Topic, r.store.cfg.Topic)
	}
	for partition, s := range spans {
		former := p.Partitions[partition]
		if s.End < former.End {
			return nil, fmt.Errorf("the position is %d in partition %d of topic %s, which ends at %d: it is another topic of that name", former.End, partition, p.Topic, s.End)
		}
		if s.End = former.End; s.Start < s.End {
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

// ReadPosition reads the position stored in a file; one that does not exist is the beginning.
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
		err = errors.New("it names no partitions")
	}
	if err != nil {
		return nil, fmt.Errorf("position in %s: %w", file, err)
	}
	return p, nil
}

// WritePosition stores a position in a file, whole or not at all.
func WritePosition(file string, p *Position) (err error) {
	defer func() {
		if err != nil {
			err = fmt.Errorf("position in %s: %w", file, err)
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

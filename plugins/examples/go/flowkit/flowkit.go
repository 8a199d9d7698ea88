// Package flowkit is what a handler in Go is written with.
package flowkit

import (
	"encoding/json"
	"fmt"
	"iter"
	"time"
)

// Done is what a batch gives.
type Done struct {
	Metrics    any // a JSON object of plain values; numbers are summed over the run
	Artifact   any // a JSON object for the nodes after this one, beside the metrics
	Checkpoint any // where to go on after a crash
}

// Object is a JSON object.
type Object = map[string]any

// Export makes a handler of two functions; call it in an init.
//
// batches gets the command's input and the last checkpoint (the zero value without one) and
// yields names, unique in the run, with payloads. process gets the input, a batch's name and
// its payload.
func Export[I, B, C any](
	name, version string,
	batches func(I, C) (iter.Seq2[string, B], error),
	process func(I, string, B) (Done, error),
) {
	var input I
	next := func() (string, B, bool) { panic("no batches yet") }
	Exported = Handler{
		Name: name, Version: version,
		Begin: func(in, checkpoint []byte) error {
			var from C
			if err := parse(in, &input, checkpoint, &from); err != nil {
				return err
			}
			all, err := batches(input, from)
			if err == nil {
				next, _ = iter.Pull2(all)
			}
			return err
		},
		Next: func() (string, []byte, error) {
			uid, batch, more := next()
			if !more {
				return "", nil, nil
			}
			payload, err := json.Marshal(batch)
			return uid, payload, err
		},
		Process: func(uid string, payload []byte) ([]byte, error) {
			var batch B
			if err := json.Unmarshal(payload, &batch); err != nil {
				return nil, err
			}
			done, err := process(input, uid, batch)
			if err == nil {
				err = offer(done.Artifact, func(text string) error { return Host.UpsertPartial(uid, text) })
			}
			if err == nil {
				err = offer(done.Checkpoint, Host.SaveCheckpoint)
			}
			if err != nil {
				return nil, err
			}
			return json.Marshal(Object{"metrics": done.Metrics})
		},
	}
}

// Error is a failure that says what it means for the task. Any other error may be tried
// again.
type Error struct {
	Message    string `json:"-"`
	ReasonCode string `json:"reason_code"`
	Permanent  bool   `json:"permanent"` // every further attempt would end like this
}

func (e *Error) Error() string { return e.Message }

// Fail makes an Error.
func Fail(reasonCode string, permanent bool, format string, args ...any) error {
	return &Error{fmt.Sprintf(format, args...), reasonCode, permanent}
}

// Invalid says that the input is wrong.
func Invalid(format string, args ...any) error {
	return Fail("validation_error", true, format, args...)
}

// Or is what value points to, or otherwise for nil.
func Or[T any](value *T, otherwise T) T {
	if value == nil {
		return otherwise
	}
	return *value
}

// CheckCancelled fails when the run is cancelled.
func CheckCancelled() error {
	if source, is := Host.Cancelled(); is {
		return Fail("cancelled", false, "stopped because the run is cancelled (%s)", source)
	}
	return nil
}

// Sleep waits, and fails as soon as the run is cancelled.
func Sleep(ms uint32) error {
	if ms > 0 {
		Host.Sleep(ms)
	}
	return CheckCancelled()
}

// Log writes one line to the worker's log: trace, debug, info, warn or error.
func Log(level, format string, args ...any) { Host.Log(level, fmt.Sprintf(format, args...)) }

func parse(in []byte, input any, checkpoint []byte, from any) error {
	err := json.Unmarshal(in, input)
	if err == nil && checkpoint != nil {
		err = json.Unmarshal(checkpoint, from)
	}
	if err != nil {
		return Invalid("%v", err)
	}
	return nil
}

func offer(value any, to func(string) error) error {
	if value == nil {
		return nil
	}
	text, err := json.Marshal(value)
	if err != nil {
		return err
	}
	return to(string(text))
}

// Handler is what Export leaves for the build.
type Handler struct {
	Name, Version string
	Begin         func(input, checkpoint []byte) error
	Next          func() (uid string, payload []byte, err error)
	Process       func(uid string, payload []byte) (metrics []byte, err error)
}

// Exported is the handler that the build joins to the world.
var Exported Handler

// Host is the worker. In a component the build sets it; in a `go test` it is a worker that
// wants everything and keeps nothing.
var Host = struct {
	Cancelled      func() (source string, is bool)
	Sleep          func(ms uint32)
	SaveCheckpoint func(text string) error
	UpsertPartial  func(uid, text string) error
	Log            func(level, message string)
}{
	Cancelled:      func() (string, bool) { return "", false },
	Sleep:          func(ms uint32) { time.Sleep(time.Duration(ms) * time.Millisecond) },
	SaveCheckpoint: func(string) error { return nil },
	UpsertPartial:  func(string, string) error { return nil },
	Log:            func(string, string) {},
}

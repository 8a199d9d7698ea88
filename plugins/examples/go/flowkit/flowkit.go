// Package flowkit is what a handler in Go is written with.
package flowkit

import (
	"encoding/json"
	"fmt"

	types "go.bytecodealliance.org/pkg/wit/types"
	"wit_component/flowkit_worker_host"
	wit "wit_component/flowkit_worker_types"
)

// About is the handler's name and version.
type About struct{ Name, Version string }

// Handler is one run's handler; its methods are called one at a time.
type Handler interface {
	// IterBatches gets the command's input_inline, and on a resume the last checkpoint.
	IterBatches(input, checkpoint json.RawMessage) error
	// NextBatch returns a batch, or a nil payload at the end.
	NextBatch() (uid string, payload any, err error)
	// ProcessBatch returns the batch's metrics.
	ProcessBatch(uid string, payload json.RawMessage) (metrics any, err error)
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

// Parse reads an input and, where there is one, a checkpoint.
func Parse(input json.RawMessage, to any, checkpoint json.RawMessage, saved any) error {
	err := json.Unmarshal(input, to)
	if err == nil && checkpoint != nil {
		err = json.Unmarshal(checkpoint, saved)
	}
	if err != nil {
		return Fail("validation_error", true, "%v", err)
	}
	return nil
}

// CheckCancelled fails when the run is cancelled.
func CheckCancelled() error {
	if why := flowkit_worker_host.Cancelled(); why.IsSome() {
		return Fail("cancelled", false, "stopped because the run is cancelled (%s)", why.Some().Source)
	}
	return nil
}

// Sleep waits, and fails as soon as the run is cancelled.
func Sleep(ms uint32) error {
	if ms > 0 { // even none at all takes the worker's timer a millisecond
		flowkit_worker_host.Sleep(ms)
	}
	return CheckCancelled()
}

// SaveCheckpoint replaces the run's checkpoint, together with the batch being processed.
func SaveCheckpoint(checkpoint any) error {
	text, err := json.Marshal(checkpoint)
	if err != nil {
		return err
	}
	return taken(flowkit_worker_host.SaveCheckpoint(string(text)))
}

// UpsertPartial sets what the batch's artifact tells downstream nodes, a JSON object.
func UpsertPartial(uid string, meta any) error {
	text, err := json.Marshal(meta)
	if err != nil {
		return err
	}
	return taken(flowkit_worker_host.UpsertPartial(uid, string(text)))
}

// The worker refuses what is too large or no JSON: the next attempt would offer the same.
func taken(result types.Result[types.Unit, wit.HandlerError]) error {
	if result.IsErr() {
		return Fail("bad_output", true, "%s", result.Err().Message)
	}
	return nil
}

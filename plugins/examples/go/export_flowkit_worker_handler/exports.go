// Package export_flowkit_worker_handler joins the world's functions to the author's handler.
package export_flowkit_worker_handler

import (
	"encoding/json"
	"errors"
	"runtime"
	"runtime/debug"
	"runtime/metrics"

	types "go.bytecodealliance.org/pkg/wit/types"
	"wit_component/flowkit"
	wit "wit_component/flowkit_worker_types"
	"wit_component/handler"
)

type result[T any] = types.Result[T, wit.HandlerError]

var run flowkit.Handler = &handler.Handler{}

var (
	heap    = []metrics.Sample{{Name: "/memory/classes/heap/objects:bytes"}}
	enough  = uint64(4 << 20)
	nothing = types.Unit{}
)

// A collection reads the clock, which a component must not while it is handed its
// arguments, and there the collector would start as well as anywhere. So it never starts
// by itself; every function of the world begins with collect.
func init() { debug.SetGCPercent(-1) }

func collect() {
	if metrics.Read(heap); heap[0].Value.Uint64() > enough {
		runtime.GC()
		metrics.Read(heap)
		enough = max(2*heap[0].Value.Uint64(), 4<<20)
	}
}

func ended[T any](value T, err error) result[T] {
	if err == nil {
		return types.Ok[T, wit.HandlerError](value)
	}
	class := &flowkit.Error{ReasonCode: "unknown_error"}
	errors.As(err, &class)
	detail, _ := json.Marshal(class)
	return types.Err[T](wit.HandlerError{Message: err.Error(), Detail: types.Some(string(detail))})
}

func object(value any) result[string] {
	text, err := json.Marshal(value)
	return ended(string(text), err)
}

func Describe() result[string] {
	about := handler.About
	return object(map[string]string{"name": about.Name, "version": about.Version, "language": "go"})
}

func Init(string) result[types.Unit] { return ended(nothing, nil) }

func IterBatches(input string, checkpoint types.Option[string]) result[types.Option[string]] {
	collect()
	var command struct {
		InputInline json.RawMessage `json:"input_inline"`
	}
	err := json.Unmarshal([]byte(input), &command)
	if err == nil {
		var saved json.RawMessage
		if checkpoint.IsSome() {
			saved = json.RawMessage(checkpoint.Some())
		}
		err = run.IterBatches(command.InputInline, saved)
	}
	return ended(types.None[string](), err)
}

func NextBatch() result[types.Option[wit.Batch]] {
	collect()
	uid, payload, err := run.NextBatch()
	if err != nil || payload == nil {
		return ended(types.None[wit.Batch](), err)
	}
	text, err := json.Marshal(payload)
	return ended(types.Some(wit.Batch{Uid: types.Some(uid), Payload: string(text)}), err)
}

func ProcessBatch(batch wit.Batch) result[string] {
	collect()
	metrics, err := run.ProcessBatch(batch.Uid.SomeOr(""), json.RawMessage(batch.Payload))
	if err != nil {
		return ended("", err)
	}
	return object(map[string]any{"metrics": metrics})
}

func Finalize() result[string] { return ended("{}", nil) }

func ClassifyError(failed wit.HandlerError) result[wit.Classification] {
	class := flowkit.Error{ReasonCode: "unknown_error"}
	if err := json.Unmarshal([]byte(failed.Detail.SomeOr("{}")), &class); err != nil {
		class = flowkit.Error{ReasonCode: "unknown_error"} // not a detail of this package's
	}
	return ended(wit.Classification{ReasonCode: class.ReasonCode, Permanent: class.Permanent}, nil)
}

func Cleanup() result[types.Unit] { return ended(nothing, nil) }

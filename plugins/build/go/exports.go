// Package export_flowkit_worker_handler joins the world's functions to the author's handler.
package export_flowkit_worker_handler

import (
	"encoding/json"
	"errors"
	"regexp"
	"runtime"
	"runtime/debug"
	"runtime/metrics"

	"flowkit"
	types "go.bytecodealliance.org/pkg/wit/types"
	host "wit_component/flowkit_worker_host"
	wit "wit_component/flowkit_worker_types"
)

type result[T any] = types.Result[T, wit.HandlerError]

var (
	heap    = []metrics.Sample{{Name: "/memory/classes/heap/objects:bytes"}}
	enough  = uint64(4 << 20)
	nothing = types.Unit{}

	reasonCode = regexp.MustCompile("^[a-z0-9_]{1,64}$")
)

// A collection reads the clock, which a component must not while it is handed its
// arguments, and there the collector would start as well as anywhere. So it never starts
// by itself; every function of the world begins with collect.
func init() {
	debug.SetGCPercent(-1)
	flowkit.Host.Cancelled = func() (string, bool) {
		why := host.Cancelled()
		if why.IsNone() {
			return "", false
		}
		return why.Some().Source, true
	}
	flowkit.Host.Sleep = func(ms uint32) { host.Sleep(ms) }
	flowkit.Host.SaveCheckpoint = func(text string) error { return taken(host.SaveCheckpoint(text)) }
	flowkit.Host.UpsertPartial = func(uid, text string) error { return taken(host.UpsertPartial(uid, text)) }
	flowkit.Host.Log = host.Log
}

func collect() {
	if metrics.Read(heap); heap[0].Value.Uint64() > enough {
		runtime.GC()
		metrics.Read(heap)
		enough = max(2*heap[0].Value.Uint64(), 4<<20)
	}
}

// The worker refuses what is too large or no JSON: the next attempt would offer the same.
func taken(offered types.Result[types.Unit, wit.HandlerError]) error {
	if offered.IsErr() {
		return flowkit.Fail("bad_output", true, "%s", offered.Err().Message)
	}
	return nil
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

func Describe() result[string] {
	about := map[string]string{"name": flowkit.Exported.Name, "version": flowkit.Exported.Version, "language": "go"}
	text, err := json.Marshal(about)
	return ended(string(text), err)
}

func Init(string) result[types.Unit] { return ended(nothing, nil) }

func IterBatches(input string, checkpoint types.Option[string]) result[types.Option[string]] {
	collect()
	var command struct {
		InputInline json.RawMessage `json:"input_inline"`
	}
	err := json.Unmarshal([]byte(input), &command)
	if err == nil {
		var saved []byte
		if checkpoint.IsSome() {
			saved = []byte(checkpoint.Some())
		}
		if command.InputInline == nil || string(command.InputInline) == "null" {
			command.InputInline = json.RawMessage("{}")
		}
		err = flowkit.Exported.Begin(command.InputInline, saved)
	}
	return ended(types.None[string](), err)
}

func NextBatch() result[types.Option[wit.Batch]] {
	collect()
	uid, payload, err := flowkit.Exported.Next()
	if err != nil || payload == nil {
		return ended(types.None[wit.Batch](), err)
	}
	return ended(types.Some(wit.Batch{Uid: types.Some(uid), Payload: string(payload)}), nil)
}

func ProcessBatch(batch wit.Batch) result[string] {
	collect()
	done, err := flowkit.Exported.Process(batch.Uid.SomeOr(""), []byte(batch.Payload))
	return ended(string(done), err)
}

func Finalize() result[string] { return ended("{}", nil) }

func ClassifyError(failed wit.HandlerError) result[wit.Classification] {
	var class flowkit.Error
	if json.Unmarshal([]byte(failed.Detail.SomeOr("{}")), &class) != nil || !reasonCode.MatchString(class.ReasonCode) {
		class = flowkit.Error{ReasonCode: "unknown_error"} // not a detail of the SDK's or the worker's
	}
	return ended(wit.Classification{ReasonCode: class.ReasonCode, Permanent: class.Permanent}, nil)
}

func Cleanup() result[types.Unit] { return ended(nothing, nil) }

"""A batch word count: the lines of a text, in batches."""

import json
import re
from types import SimpleNamespace

from componentize_py_types import Err
from wit_world import exports
from wit_world.imports import host
from wit_world.imports.types import Batch, Classification, HandlerError

run = SimpleNamespace()  # every call has a Handler of its own: what lasts is kept here


def failure(message, reason_code, permanent):
    return Err(HandlerError(message, json.dumps([reason_code, permanent])))


class Handler(exports.Handler):
    def describe(self):
        return json.dumps({"name": "wordcount", "version": "0.1.0", "language": "python"})

    def init(self, run_info): ...

    def iter_batches(self, command, checkpoint):
        run.input = {"batch_lines": 10} | (json.loads(command)["input_inline"] or {})
        if not isinstance(run.input.get("text"), str):
            raise failure("`text` is not a string", "validation_error", True)
        if run.input["batch_lines"] < 1:
            raise failure("`batch_lines` is below 1", "validation_error", True)
        run.lines = run.input["text"].removesuffix("\n").split("\n") if run.input["text"] else []
        run.next = json.loads(checkpoint)["next"] if checkpoint else 0

    def next_batch(self):
        start = run.next * run.input["batch_lines"]
        if lines := run.lines[start : start + run.input["batch_lines"]]:
            run.next += 1
            return Batch(f"b{run.next - 1}", json.dumps({"lines": lines}))

    def process_batch(self, batch):
        if host.cancelled() or host.sleep(run.input.get("sleep_ms") or 0):
            raise failure("stopped because the run is cancelled", "cancelled", False)
        number = int(batch.uid[1:])
        if number == run.input.get("fail_at"):
            raise failure(f"batch {batch.uid} is poisoned", "poison", bool(run.input.get("permanent")))
        lines = [line.encode() for line in json.loads(batch.payload)["lines"]]
        words = sum(len(re.findall(rb"[^ \t\n\f\r]+", line)) for line in lines)
        metrics = {"lines": len(lines), "words": words, "bytes": sum(map(len, lines))}
        host.upsert_partial(batch.uid, json.dumps(metrics))
        host.save_checkpoint(json.dumps({"next": number + 1}))
        return json.dumps({"metrics": metrics})

    def finalize(self):
        return json.dumps({"metrics": {}})

    def classify_error(self, error):
        return Classification(*json.loads(error.detail or '["unknown_error", false]'))

    def cleanup(self): ...

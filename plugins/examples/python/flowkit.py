"""What a FlowKit handler in Python is written with."""

import functools
import json
import re
from types import SimpleNamespace

from componentize_py_types import Err
from wit_world import exports
from wit_world.imports import host
from wit_world.imports.types import Batch, Classification, HandlerError

_batch = SimpleNamespace(uid=None)  # the one that is being processed


class Failure(Exception):
    """An error that says what it means for the task."""

    def __init__(self, reason_code, permanent, message):
        super().__init__(message)
        self.detail = json.dumps({"reason_code": reason_code, "permanent": permanent})


def invalid(message):
    """The input is wrong."""
    return Failure("validation_error", True, message)


def check_cancelled():
    """Raises when the run is cancelled."""
    if why := host.cancelled():
        raise Failure("cancelled", False, f"stopped because the run is cancelled ({why.source})")


def sleep(ms):
    """Waits; raises as soon as the run is cancelled."""
    if ms:
        host.sleep(ms)
    check_cancelled()


def save_checkpoint(checkpoint):
    """Replaces the run's checkpoint, together with the batch that is being processed."""
    _offer(host.save_checkpoint, json.dumps(checkpoint))


def upsert_partial(meta):
    """Sets what the batch's artifact tells downstream nodes beside its metrics: a dict."""
    _offer(host.upsert_partial, _batch.uid, json.dumps(meta))


def log(level, message):
    """One line for the worker's log: `trace`, `debug`, `info`, `warn`, `error`."""
    host.log(level, message)


class Handler:
    """What an author implements; one object a run."""

    name = version = ""
    input = None  # the command's

    def batches(self, input, checkpoint):
        """Yields (uid, payload), on a resume from the last checkpoint on."""
        raise NotImplementedError

    def process(self, uid, payload):
        """Returns the batch's metrics, a dict of plain values: numbers are summed."""
        raise NotImplementedError

    def finalize(self):
        """Returns the run's metrics, laid over the sums of the batches'."""
        return {}


def export(handler):
    """What a module must call `Handler`, for a class of the author's."""
    run = SimpleNamespace(handler=handler())  # every call has a World of its own

    @_answering
    class World(exports.Handler):
        def describe(self):
            return json.dumps({"name": handler.name, "version": handler.version, "language": "python"})

        def init(self, run_info): ...

        def iter_batches(self, command, checkpoint):
            input = json.loads(command)["input_inline"] or {}
            run.handler.input = input
            batches = run.handler.batches(input, json.loads(checkpoint) if checkpoint else None)
            # A wrong input fails here, not at the first batch.
            run.ahead, run.batches = next(batches, None), batches

        def next_batch(self):
            batch, run.ahead = run.ahead, None
            if batch := batch or next(run.batches, None):
                return Batch(batch[0], json.dumps(batch[1]))

        def process_batch(self, batch):
            _batch.uid = batch.uid
            metrics = run.handler.process(batch.uid, json.loads(batch.payload))
            return json.dumps({"metrics": metrics})

        def finalize(self):
            return json.dumps({"metrics": run.handler.finalize()})

        def classify_error(self, error):
            return _class(error.detail)

        def cleanup(self): ...

    return World


def _answering(world):
    """Only the world's own error may leave a function: any other ends the instance."""

    def wrap(call):
        @functools.wraps(call)
        def answer(*given):
            try:
                return call(*given)
            except Failure as failure:
                error = HandlerError(str(failure), failure.detail)
            except Exception as unexpected:
                error = HandlerError(_told(unexpected), None)
            raise Err(error)

        return answer

    for name, call in list(vars(world).items()):
        if not name.startswith("_"):
            setattr(world, name, wrap(call))
    return world


def _class(detail):
    """What a detail says, where it is one of the SDK's or of the worker's own errors."""
    try:
        said = json.loads(detail or "{}")
    except ValueError:
        said = {}
    code = said.get("reason_code") if isinstance(said, dict) else None
    if not isinstance(code, str) or not re.fullmatch("[a-z0-9_]{1,64}", code):
        return Classification("unknown_error", False)
    return Classification(code, said.get("permanent") is True)


def _told(error):
    text, at = f"{type(error).__name__}: {error}", error.__traceback__
    while at := at.tb_next:  # the first is this module's
        code = at.tb_frame.f_code
        text += f"\n    at {code.co_name} ({code.co_filename}:{at.tb_lineno})"
    return text


def _offer(call, *given):
    """The worker refuses what is too large or no JSON: the next attempt would offer the same."""
    try:
        call(*given)
    except Err as refused:
        raise Failure("bad_output", True, refused.value.message) from None

"""A batch word count: the lines of a text, in batches."""

import re

import flowkit


class WordCount(flowkit.Handler):
    name, version = "wordcount", "0.1.0"

    def batches(self, input, checkpoint):
        self.input, text, size = input, input.get("text"), input.get("batch_lines", 10)
        if not isinstance(text, str):
            raise flowkit.invalid("`text` is not a string")
        if size < 1:
            raise flowkit.invalid("`batch_lines` is below 1")
        lines = text.removesuffix("\n").split("\n") if text else []
        first = checkpoint["next"] if checkpoint else 0
        for k, start in enumerate(range(first * size, len(lines), size), first):
            yield f"b{k}", {"lines": lines[start : start + size]}

    def process(self, uid, payload):
        flowkit.check_cancelled()
        if ms := self.input.get("sleep_ms"):
            flowkit.sleep(ms)
        number = int(uid[1:])
        if number == self.input.get("fail_at"):
            raise flowkit.Failure("poison", bool(self.input.get("permanent")), f"batch {uid} is poisoned")
        lines = [line.encode() for line in payload["lines"]]
        words = sum(len(re.findall(rb"[^ \t\n\f\r]+", line)) for line in lines)
        metrics = {"lines": len(lines), "words": words, "bytes": sum(map(len, lines))}
        flowkit.upsert_partial(uid, metrics)  # what the nodes after this one see
        flowkit.save_checkpoint({"next": number + 1})  # where to go on after a crash
        return metrics


Handler = flowkit.export(WordCount)

"""Counts the words of a text, in batches of lines."""

import re

import flowkit


class WordCount(flowkit.Handler):
    name, version = "wordcount", "0.1.0"

    def batches(self, input, checkpoint):
        text, size = input.get("text"), input.get("batch_lines", 10)
        if not isinstance(text, str):
            raise flowkit.invalid("`text` is not a string")
        if size < 1:
            raise flowkit.invalid("`batch_lines` is below 1")
        lines = text.removesuffix("\n").split("\n") if text else []
        for k in range(checkpoint or 0, -(-len(lines) // size)):
            yield f"b{k}", {"k": k, "lines": lines[k * size : (k + 1) * size]}

    def process(self, uid, batch):
        flowkit.sleep(self.input.get("sleep_ms"))  # raises when the run is cancelled
        if batch["k"] == self.input.get("fail_at"):
            permanent = bool(self.input.get("permanent"))
            raise flowkit.Failure("poison", permanent, f"batch {uid} is poisoned")
        lines = [line.encode() for line in batch["lines"]]
        words = sum(len(re.findall(rb"[^ \t\n\f\r]+", line)) for line in lines)
        sizes = [len(line) for line in lines]
        flowkit.upsert_partial({"longest": max(sizes)})  # what the nodes after this one see, beside the metrics
        flowkit.save_checkpoint(batch["k"] + 1)  # where to go on after a crash
        return {"lines": len(lines), "words": words, "bytes": sum(sizes)}


Handler = flowkit.export(WordCount)

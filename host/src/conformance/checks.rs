//! What is checked, and what a check found.

use serde::Serialize;

use super::trace::Function;

/// One thing that a handler has to do as the world says.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Check {
    /// It can be instantiated and says who it is.
    Describe,
    /// `init`.
    Init,
    /// `iter-batches`.
    IterBatches,
    /// `next-batch`.
    NextBatch,
    /// Every batch has a name of its own.
    BatchUids,
    /// `process-batch`.
    ProcessBatch,
    /// `finalize`.
    Finalize,
    /// `cleanup`.
    Cleanup,
    /// The same input gives the same batches.
    SameBatches,
    /// A batch can be processed again.
    ProcessAgain,
    /// Keys of a later version are ignored.
    UnknownKeys,
    /// After a crash without a checkpoint.
    StartOver,
    /// After a crash with one.
    Checkpoint,
    /// A run that was interrupted ends like one that was not.
    SameEnd,
    /// A cancel during `iter-batches`.
    CancelIterBatches,
    /// A cancel during `next-batch`.
    CancelNextBatch,
    /// A cancel during `process-batch`.
    CancelProcessBatch,
    /// A cancel during `finalize`.
    CancelFinalize,
    /// `classify-error`.
    ClassifyError,
    /// No call ended in a panic or a trap.
    NoPanic,
    /// Memory, time, and sizes.
    Limits,
    /// How much is logged.
    LogRate,
}

impl Check {
    /// The check of a function that is cancelled.
    pub(super) fn of_cancelled(function: Function) -> Self {
        match function {
            Function::NextBatch => Self::CancelNextBatch,
            Function::ProcessBatch => Self::CancelProcessBatch,
            Function::Finalize => Self::CancelFinalize,
            _ => Self::CancelIterBatches,
        }
    }

    /// Its name in reports.
    pub fn name(self) -> &'static str {
        self.words().texts.0
    }

    /// What has to be so.
    pub fn expected(self) -> &'static str {
        self.words().texts.1
    }

    /// What its author can do when it is not so.
    pub fn advice(self) -> &'static str {
        self.words().texts.2
    }

    fn words(self) -> &'static Words {
        let found = WORDS.iter().find(|words| words.check == self);
        found.expect("each variant has its row, and every report uses them all")
    }
}

/// A check's name, what has to be so, and what to do when it is not.
struct Words {
    check: Check,
    texts: (&'static str, &'static str, &'static str),
}

const WORDS: [Words; 22] = [
    Words {
        check: Check::Describe,
        texts: (
            "describe",
            "the component starts, and `describe` returns a JSON object with `name` and \
                 `version`",
            "call nothing but `host.log` in `describe`, and return strings",
        ),
    },
    Words {
        check: Check::Init,
        texts: (
            "init",
            "`init` begins a run",
            "return an error from `init` only where no run can succeed",
        ),
    },
    Words {
        check: Check::IterBatches,
        texts: (
            "iter-batches",
            "`iter-batches` takes the input",
            "if the handler needs another input, give it with --input, and directories with \
                 --dir",
        ),
    },
    Words {
        check: Check::NextBatch,
        texts: (
            "next-batch",
            "`next-batch` yields batches: a name of 1 to 512 bytes or none, and JSON",
            "give each batch a `payload` that is one JSON value",
        ),
    },
    Words {
        check: Check::BatchUids,
        texts: (
            "batch-uids",
            "no two batches of a run have the same name",
            "name each batch after what it covers, such as a file and a range",
        ),
    },
    Words {
        check: Check::ProcessBatch,
        texts: (
            "process-batch",
            "`process-batch` processes every batch of this input",
            "give an input that the handler can process with --input; if it is one, mend \
                 the handler",
        ),
    },
    Words {
        check: Check::Finalize,
        texts: (
            "finalize",
            "`finalize` returns a JSON object whose `metrics` are plain values",
            "put everything that is no number, text, boolean or null into `payload`",
        ),
    },
    Words {
        check: Check::Cleanup,
        texts: (
            "cleanup",
            "`cleanup` ends every run without an error, also a cancelled one",
            "release what `init` took, and ignore what is gone already",
        ),
    },
    Words {
        check: Check::SameBatches,
        texts: (
            "same-batches",
            "a second run over the same input yields the same names in the same order",
            "take names and order from the input alone: no clock, no chance, no unordered \
                 map or directory",
        ),
    },
    Words {
        check: Check::ProcessAgain,
        texts: (
            "process-again",
            "a batch can be processed again, as after a crash",
            "let a batch overwrite what an earlier try of it left behind",
        ),
    },
    Words {
        check: Check::UnknownKeys,
        texts: (
            "unknown-keys",
            "keys that a later version adds to the input are ignored",
            "read only the keys you know",
        ),
    },
    Words {
        check: Check::StartOver,
        texts: (
            "start-over",
            "without a checkpoint a run goes on after a crash with exactly the batches that \
                 are left",
            "yield all batches again from the first one: the worker leaves out the finished \
                 ones",
        ),
    },
    Words {
        check: Check::Checkpoint,
        texts: (
            "checkpoint",
            "from each checkpoint a run goes on with exactly the batches that are left",
            "save in `process-batch` the position behind that batch, and begin there when \
                 `iter-batches` gets it",
        ),
    },
    Words {
        check: Check::SameEnd,
        texts: (
            "same-end",
            "a run that was interrupted ends with the same metrics and payload",
            "keep nothing in memory from batch to batch: take sums from `run-totals`, and \
                 the rest from the checkpoint",
        ),
    },
    Words {
        check: Check::CancelIterBatches,
        texts: ("cancel-iter-batches", "a cancelled `iter-batches` returns in time", LOOK),
    },
    Words {
        check: Check::CancelNextBatch,
        texts: ("cancel-next-batch", "a cancelled `next-batch` returns in time", LOOK),
    },
    Words {
        check: Check::CancelProcessBatch,
        texts: ("cancel-process-batch", "a cancelled `process-batch` returns in time", LOOK),
    },
    Words {
        check: Check::CancelFinalize,
        texts: ("cancel-finalize", "a cancelled `finalize` returns in time", LOOK),
    },
    Words {
        check: Check::ClassifyError,
        texts: (
            "classify-error",
            "`classify-error` gives every error a reason code [a-z0-9_]{1,64}",
            "answer errors that the handler does not know too, as `unknown_error`",
        ),
    },
    Words {
        check: Check::NoPanic,
        texts: (
            "no-panic",
            "no call ends in a panic, an uncaught exception or a trap",
            "return an error instead: after a trap nothing can be classified or cleaned up",
        ),
    },
    Words {
        check: Check::Limits,
        texts: (
            "limits",
            "every call stays within the limits of memory, time and size",
            "give each batch less to do; a role's limits are `handlers.ROLE.limits`, here \
                 --limit KEY=NUMBER",
        ),
    },
    Words {
        check: Check::LogRate,
        texts: (
            "log-rate",
            "no run writes more lines than `limits.log_lines_per_sec`",
            "log by batch, not by row",
        ),
    },
];

const LOOK: &str = "look at `host.cancelled` between pieces of work, and wait with `host.sleep`";

/// What became of a check.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    /// As expected.
    Ok,
    /// Not as expected.
    Failed,
    /// This handler, or this input, gives nothing to look at, or another check failed first.
    NotApplicable,
}

/// One check with its verdict.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    /// Which.
    pub check: Check,
    /// How it went.
    pub verdict: Verdict,
    /// What was seen, or why nothing was.
    pub found: String,
}

impl Finding {
    pub(super) fn ok(check: Check, found: impl Into<String>) -> Self {
        Self { check, verdict: Verdict::Ok, found: found.into() }
    }

    pub(super) fn failed(check: Check, found: impl Into<String>) -> Self {
        Self { check, verdict: Verdict::Failed, found: found.into() }
    }

    pub(super) fn not_applicable(check: Check, why: impl Into<String>) -> Self {
        Self { check, verdict: Verdict::NotApplicable, found: why.into() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_check_has_its_own_words() {
        for words in &WORDS {
            let name = serde_json::to_value(words.check).expect("a name");
            assert_eq!(name, words.texts.0, "the same name in both forms of the report");
        }
    }
}

//! The `flowkit` binary.

use std::process::ExitCode;

fn main() -> ExitCode {
    flowkit::tasks::stop_on_panic();
    flowkit::cli::main()
}

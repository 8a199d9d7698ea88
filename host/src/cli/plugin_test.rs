//! `flowkit plugin test`: whether a handler keeps what the world asks of it.

use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use clap::Args;
use serde_json::{Map, Value, json};

use super::grants::GrantArgs;
use super::plugin_run::{UPSTREAM, address_of, leave_upstream, told};
use super::printable::printable;
use super::{Usage, input, print};
use crate::app;
use crate::clock::Clock;
use crate::conformance::{Finding, Subject, Verdict, examine, refused};
use crate::plugin::{CheckError, Engine, HandlerConfig, Limits, PluginConfig, Plugins};
use crate::types::NodeId;

/// `flowkit plugin test`.
#[derive(Debug, Args)]
#[command(after_help = "\
Runs the handler several times over one input, as a worker would: whole, once more, on from\n\
where a crash left it, cancelled in each of its functions. Prints a line for each thing that\n\
it has to do: ok, FAILED with what to do about it, or - where this input gives nothing to look\n\
at. Exits with 0 if nothing failed, 1 if something did, 2 if the file is not a handler.\n\
\n\
Examples:\n  \
  flowkit plugin test plugins/steps.wasm --input '{\"count\": 4}'\n  \
  flowkit plugin test plugins/textstats.wasm --dir .::/data --input @input.json\n  \
  flowkit plugin test plugins/report.wasm --upstream batches.jsonl")]
pub struct TestArgs {
    /// The component
    #[arg(value_name = "FILE.wasm")]
    file: PathBuf,
    /// The input, as a command's `input_inline`: a JSON object, or @FILE (@- for stdin)
    #[arg(long, value_name = "JSON|@FILE", default_value = "{}")]
    input: String,
    /// What upstream nodes left: a line for each of their batches, a JSON object
    #[arg(long, value_name = "FILE")]
    upstream: Option<PathBuf>,
    /// Most batches of a run that are looked at
    #[arg(long, value_name = "N", default_value_t = 100)]
    batches: usize,
    /// How long a cancelled function may go on, as `cancel_grace_sec` of a worker
    #[arg(long, value_name = "SECONDS", default_value = "5", value_parser = seconds)]
    cancel_grace: Duration,
    /// Sets a limit, a key of `handlers.ROLE.limits`; may be given several times
    #[arg(long, value_name = "KEY=NUMBER")]
    limit: Vec<String>,
    /// Prints one JSON object at the end and nothing else
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    grants: GrantArgs,
}

fn seconds(text: &str) -> Result<Duration, &'static str> {
    const WRONG: &str = "expected seconds, more than 0 and at most 3600";
    let seconds: f64 = text.parse().map_err(|_| WRONG)?;
    let duration = Duration::try_from_secs_f64(seconds).map_err(|_| WRONG)?;
    let fits = !duration.is_zero() && duration <= Duration::from_secs(3_600);
    if fits { Ok(duration) } else { Err(WRONG) }
}

/// Runs it.
pub async fn execute(args: TestArgs) -> anyhow::Result<ExitCode> {
    let inline = input::read(&args.input)?;
    let address = address_of(&args.file)?;
    let role = address.role.clone();
    let clock = Clock::system();
    let backend = app::memory(&clock, args.grants.collections()?);
    if let Some(file) = &args.upstream {
        leave_upstream(&backend, &address, file, &clock).await?;
    }
    let handler = HandlerConfig { limits: limits(&args.limit)?, ..args.grants.handler(&args.file) };
    let config = PluginConfig { role: role.clone(), handler };
    let engine = Engine::new()?.with_documents(backend.documents.clone());
    let plugins = match Plugins::load(&engine, vec![config]).await {
        Ok(plugins) => Arc::new(plugins),
        Err(errors) => return not_loaded(&args, errors.into_iter().map(|bad| bad.error).collect()),
    };
    let describe = plugins.get(&role).map(|plugin| plugin.inspection().describe.clone());
    let subject = Subject {
        handlers: plugins,
        role,
        describe: describe.unwrap_or_default(),
        inline,
        store: backend.store,
        task_id: address.key.task_id,
        upstream: NodeId::new(UPSTREAM)?,
        most_batches: args.batches.max(1),
        grace: args.cancel_grace,
    };
    report(&args, &examine(&subject).await?)
}

fn limits(options: &[String]) -> Result<Limits, Usage> {
    let mut given = Map::new();
    for option in options {
        let wrong = || Usage(format!("--limit {option}: write it as KEY=NUMBER"));
        let (key, number) = option.split_once('=').ok_or_else(wrong)?;
        let number: u64 = number.trim().parse().map_err(|_| wrong())?;
        given.insert(key.trim().to_owned(), number.into());
    }
    serde_json::from_value(Value::Object(given)).map_err(|error| Usage(format!("--limit: {error}")))
}

/// A handler whose `describe` fails is one that fails a check; everything else is no handler.
fn not_loaded(args: &TestArgs, errors: Vec<CheckError>) -> anyhow::Result<ExitCode> {
    if let [CheckError::Trial { fault, .. }] = errors.as_slice() {
        return report(args, &refused(fault));
    }
    let lines: Vec<String> = errors.iter().map(told).collect();
    Err(Usage(lines.join("\n")).into())
}

fn report(args: &TestArgs, findings: &[Finding]) -> anyhow::Result<ExitCode> {
    let failed = findings.iter().any(|finding| finding.verdict == Verdict::Failed);
    if args.json {
        let checks: Vec<Value> = findings.iter().map(as_json).collect();
        print(json!({"passed": !failed, "checks": checks}))?;
    } else {
        for finding in findings {
            print(shown(finding))?;
        }
        print(summary(findings))?;
    }
    Ok(if failed { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

fn as_json(finding: &Finding) -> Value {
    let Finding { check, verdict, found } = finding;
    let advice = (*verdict == Verdict::Failed).then(|| check.advice());
    json!({
        "check": check, "verdict": verdict, "expected": check.expected(), "found": found,
        "advice": advice,
    })
}

fn shown(finding: &Finding) -> String {
    let Finding { check, verdict, found } = finding;
    let name = check.name();
    // A fault quotes the guest's stderr on lines of its own.
    let indented = "\n            ";
    let lines: Vec<_> = found.lines().map(printable).collect();
    let found = lines.join(indented);
    match verdict {
        Verdict::Ok => format!("ok      {name:<21} {found}"),
        Verdict::NotApplicable => format!("-       {name:<21} {found}"),
        Verdict::Failed => format!(
            "FAILED  {name}\n  expected: {}\n  found:    {found}\n  to do:    {}",
            check.expected(),
            check.advice(),
        ),
    }
}

fn summary(findings: &[Finding]) -> String {
    let count = |verdict| findings.iter().filter(|finding| finding.verdict == verdict).count();
    let (ok, failed) = (count(Verdict::Ok), count(Verdict::Failed));
    let word = if failed == 0 { "passed" } else { "FAILED" };
    let rest = count(Verdict::NotApplicable);
    format!("{word}: {ok} ok, {failed} failed, {rest} not applicable")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_grace_is_a_time() {
        assert_eq!(seconds("0.25"), Ok(Duration::from_millis(250)));
        for wrong in ["", "soon", "0", "-1", "NaN", "1e9"] {
            assert!(seconds(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn limits_are_those_of_the_configuration() {
        let given = |text: &str| limits(&[text.to_owned()]);
        assert_eq!(given("memory_bytes=1048576").unwrap().memory_bytes.get(), 1 << 20);
        assert_eq!(limits(&[]).unwrap(), Limits::default());
        for wrong in ["memory_bytes", "memory_bytes=many", "memory=1", "call_time_ms=0"] {
            let error = given(wrong).expect_err(wrong).to_string();
            assert!(error.starts_with("--limit"), "{error}");
        }
    }
}

//! Where a run's batches come from: its handler, or what upstream nodes left
//! (`protocol.md`, "Input").

pub mod artifacts;
mod rechunk;

use serde_json::{Map, Value};

use crate::handler::{AdapterProposal, FaultCode, HostFault};
use crate::settings::PullSettings;
use crate::types::NodeId;

use std::time::Duration;

const ARTIFACTS: &str = "pull.from_artifacts";
const RECHUNK: &str = "pull.from_artifacts.rechunk:size";

/// Most upstream nodes one adapter reads.
const MAX_FROM_NODES: usize = 1_000;

/// Where batches come from.
#[derive(Debug, Clone, PartialEq)]
pub enum Source {
    /// `next-batch`.
    Handler,
    /// Upstream artifacts.
    Artifacts(Pull),
}

/// The arguments of both adapters.
#[derive(Debug, Clone, PartialEq)]
pub struct Pull {
    /// Whose artifacts.
    pub from_nodes: Vec<NodeId>,
    /// The wait after a poll that found nothing.
    pub poll: Duration,
    /// The longest such wait.
    pub backoff_max: Duration,
    /// End when every upstream node is complete; otherwise only on cancellation.
    pub eof_on_task_done: bool,
    /// Cut what was read into chunks.
    pub rechunk: Option<Rechunk>,
}

/// How to cut upstream batches.
#[derive(Debug, Clone, PartialEq)]
pub struct Rechunk {
    /// Most items a chunk.
    pub size: usize,
    /// Which list of the upstream's `meta`; the whole `meta` is one item where it is none.
    pub meta_list_key: Option<String>,
}

/// How the source is chosen.
#[derive(Debug, Clone)]
pub struct SourceRules(pub PullSettings);

impl SourceRules {
    /// The adapter that the command names, if it names one.
    pub fn commanded(
        &self,
        inline: Option<&Map<String, Value>>,
    ) -> Result<Option<Source>, HostFault> {
        let named = inline.and_then(|inline| inline.get("input_adapter"));
        let name = match named {
            None | Some(Value::Null) => return Ok(None),
            Some(Value::String(name)) if name.is_empty() => return Ok(None),
            Some(Value::String(name)) => name,
            Some(_) => return Err(bad_adapter("`input_adapter` is not a string".into())),
        };
        let empty = Map::new();
        let args = match inline.and_then(|inline| inline.get("input_args")) {
            None | Some(Value::Null) => &empty,
            Some(Value::Object(args)) => args,
            Some(_) => return Err(bad_args("`input_args` is not an object".into())),
        };
        match self.adapter(name, args) {
            Some(source) => source.map(Some),
            None => Err(bad_adapter(format!(
                "unknown input adapter `{name:.100}`; known are `{ARTIFACTS}` and `{RECHUNK}`"
            ))),
        }
    }

    /// The command's adapter, else the handler's proposal if it is known, else the handler.
    pub fn choose(
        &self,
        inline: Option<&Map<String, Value>>,
        proposal: Option<&AdapterProposal>,
    ) -> Result<Source, HostFault> {
        if let Some(source) = self.commanded(inline)? {
            return Ok(source);
        }
        proposal
            .and_then(|proposal| self.adapter(&proposal.input_adapter, &proposal.input_args))
            .unwrap_or(Ok(Source::Handler))
    }

    fn adapter(&self, name: &str, args: &Map<String, Value>) -> Option<Result<Source, HostFault>> {
        let rechunk = match name {
            ARTIFACTS => false,
            RECHUNK => true,
            _ => return None,
        };
        Some(self.pull(args, rechunk).map(Source::Artifacts).map_err(bad_args))
    }

    fn pull(&self, args: &Map<String, Value>, rechunk: bool) -> Result<Pull, String> {
        Ok(Pull {
            from_nodes: from_nodes(args)?,
            poll: millis(args, "poll_ms")?.unwrap_or(self.0.poll),
            backoff_max: millis(args, "backoff_max_ms")?.unwrap_or(self.0.backoff_max),
            eof_on_task_done: match given(args, "eof_on_task_done") {
                None => true,
                Some(Value::Bool(eof)) => *eof,
                Some(_) => return Err("`eof_on_task_done` is not true or false".into()),
            },
            rechunk: rechunk.then(|| self.rechunk(args)).transpose()?,
        })
    }

    fn rechunk(&self, args: &Map<String, Value>) -> Result<Rechunk, String> {
        let size = match given(args, "size") {
            None => return Err(format!("`{RECHUNK}` needs `size`, a positive whole number")),
            Some(size) => size
                .as_u64()
                .filter(|size| *size > 0)
                .and_then(|size| usize::try_from(size).ok())
                .ok_or("`size` is not a positive whole number")?,
        };
        let meta_list_key = match given(args, "meta_list_key") {
            None if self.0.strict => {
                return Err("`meta_list_key` is required (`strict_input_adapters` is on)".into());
            }
            None => None,
            Some(Value::String(key)) => Some(key.clone()),
            Some(_) => return Err("`meta_list_key` is not a string".into()),
        };
        Ok(Rechunk { size, meta_list_key })
    }
}

fn from_nodes(args: &Map<String, Value>) -> Result<Vec<NodeId>, String> {
    let one = |value: &Value| match value {
        Value::String(name) => NodeId::new(name.as_str()).map_err(|e| format!("`from_nodes`: {e}")),
        _ => Err("`from_nodes` holds something that is not a string".into()),
    };
    let mut nodes = match (given(args, "from_nodes"), given(args, "from_node")) {
        (Some(Value::Array(names)), _) => names.iter().map(one).collect::<Result<Vec<_>, _>>()?,
        (Some(_), _) => return Err("`from_nodes` is not a list".into()),
        (None, Some(name)) => vec![one(name)?],
        (None, None) => vec![],
    };
    let mut seen = std::collections::HashSet::new();
    nodes.retain(|node| seen.insert(node.clone()));
    match nodes.len() {
        0 => Err("`from_nodes` names no node".into()),
        n if n > MAX_FROM_NODES => Err(format!("`from_nodes` names more than {MAX_FROM_NODES}")),
        _ => Ok(nodes),
    }
}

fn millis(args: &Map<String, Value>, key: &str) -> Result<Option<Duration>, String> {
    match given(args, key) {
        None => Ok(None),
        Some(value) => match value.as_u64() {
            Some(ms @ 1..=3_600_000) => Ok(Some(Duration::from_millis(ms))),
            _ => Err(format!("`{key}` is not a whole number of milliseconds from 1 to 3600000")),
        },
    }
}

fn given<'a>(args: &'a Map<String, Value>, key: &str) -> Option<&'a Value> {
    args.get(key).filter(|value| !value.is_null())
}

fn bad_adapter(message: String) -> HostFault {
    HostFault { code: FaultCode::BadInputAdapter, message }
}

fn bad_args(message: String) -> HostFault {
    HostFault { code: FaultCode::BadInputArgs, message }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn rules(strict: bool) -> SourceRules {
        SourceRules(PullSettings {
            poll: Duration::from_millis(300),
            backoff_max: Duration::from_millis(4_000),
            strict,
        })
    }

    fn object(value: Value) -> Map<String, Value> {
        value.as_object().unwrap().clone()
    }

    #[test]
    fn the_command_outranks_the_handler() {
        let inline = object(json!({
            "input_adapter": ARTIFACTS, "input_args": {"from_nodes": ["a", "b", "a"]},
        }));
        let proposal = AdapterProposal {
            input_adapter: RECHUNK.into(),
            input_args: object(json!({"from_node": "c", "size": 1})),
        };
        let Ok(Source::Artifacts(pull)) = rules(false).choose(Some(&inline), Some(&proposal))
        else {
            panic!("no adapter was chosen")
        };
        assert_eq!(pull.from_nodes.iter().map(NodeId::as_str).collect::<Vec<_>>(), ["a", "b"]);
        assert_eq!((pull.poll.as_millis(), pull.backoff_max.as_millis()), (300, 4_000));
        assert!(pull.eof_on_task_done && pull.rechunk.is_none());
        let Ok(Source::Artifacts(pull)) = rules(false).choose(None, Some(&proposal)) else {
            panic!("the proposal was not taken")
        };
        assert_eq!(pull.rechunk, Some(Rechunk { size: 1, meta_list_key: None }));
    }

    #[test]
    fn an_unknown_adapter_fails_the_command_but_not_a_proposal() {
        let inline = object(json!({"input_adapter": "pull.from_space"}));
        let fault = rules(false).choose(Some(&inline), None).unwrap_err();
        assert_eq!(fault.code, FaultCode::BadInputAdapter);
        let proposal =
            AdapterProposal { input_adapter: "pull.from_space".into(), input_args: Map::new() };
        assert_eq!(rules(false).choose(None, Some(&proposal)), Ok(Source::Handler));
    }

    #[test]
    fn wrong_arguments_name_the_key() {
        let cases = [
            (json!({}), "`from_nodes` names no node"),
            (json!({"from_nodes": "a"}), "`from_nodes` is not a list"),
            (json!({"from_nodes": [1]}), "`from_nodes` holds something that is not a string"),
            (json!({"from_node": "a"}), "needs `size`"),
            (json!({"from_node": "a", "size": 0}), "`size` is not a positive"),
            (json!({"from_node": "a", "size": 2.5}), "`size` is not a positive"),
            (json!({"from_node": "a", "size": 2, "poll_ms": -1}), "`poll_ms` is not"),
            (json!({"from_node": "a", "size": 2}), "`meta_list_key` is required"),
            (
                json!({"from_node": "a", "size": 2, "meta_list_key": "k", "eof_on_task_done": 1}),
                "`eof_on_task_done` is not",
            ),
        ];
        for (args, expected) in cases {
            let inline = object(json!({"input_adapter": RECHUNK, "input_args": args}));
            let fault = rules(true).commanded(Some(&inline)).unwrap_err();
            assert_eq!(fault.code, FaultCode::BadInputArgs);
            assert!(fault.message.contains(expected), "{}", fault.message);
        }
    }
}

//! Dotted paths: through documents by name, through lists by their elements and by index.

use std::ops::ControlFlow;

use mongodb::bson::{Bson, Document};

use super::{Effort, refused};
use crate::documents::DocumentsError;

/// Most steps; no document is nested more deeply.
const MAX_STEPS: usize = 128;

/// What ends a walk before its end: the visitor, or too much effort.
pub(super) type Step = ControlFlow<Result<(), DocumentsError>>;

/// A path's steps.
pub(super) fn parse(part: &str, path: &str) -> Result<Vec<String>, DocumentsError> {
    let steps: Vec<String> = path.split('.').map(str::to_owned).collect();
    if steps.len() > MAX_STEPS {
        return Err(refused(format!("a field of the {part} has more than {MAX_STEPS} steps")));
    }
    if let Some(step) = steps.iter().find(|step| step.is_empty() || step.starts_with('$')) {
        let why = if step.is_empty() { "has an empty name" } else { "has an operator for a name" };
        return Err(refused(format!("the field `{path}` of the {part} {why}")));
    }
    Ok(steps)
}

/// Shows `visit` everything that `path` leads to; none where it leads to a field that is
/// not there. False when the visitor stopped it.
pub(super) fn walk(
    document: &Document,
    path: &[String],
    effort: &mut Effort,
    mut visit: impl FnMut(Option<&Bson>, &mut Effort) -> Step,
) -> Result<bool, DocumentsError> {
    let Some((first, rest)) = path.split_first() else { return Ok(true) };
    match follow(document.get(first), rest, effort, &mut visit) {
        ControlFlow::Continue(()) => Ok(true),
        ControlFlow::Break(stopped) => stopped.map(|()| false),
    }
}

fn follow(
    value: Option<&Bson>,
    path: &[String],
    effort: &mut Effort,
    visit: &mut impl FnMut(Option<&Bson>, &mut Effort) -> Step,
) -> Step {
    if let Err(error) = effort.spend(1) {
        return ControlFlow::Break(Err(error));
    }
    let Some((first, rest)) = path.split_first() else { return visit(value, effort) };
    match value {
        Some(Bson::Document(document)) => follow(document.get(first), rest, effort, visit),
        Some(Bson::Array(elements)) => {
            for element in elements {
                if let Bson::Document(document) = element {
                    follow(document.get(first), rest, effort, visit)?;
                }
            }
            match first.parse().ok().and_then(|index: usize| elements.get(index)) {
                Some(element) => follow(Some(element), rest, effort, visit),
                None => ControlFlow::Continue(()),
            }
        }
        _ => visit(None, effort),
    }
}

//! The filter: which documents are wanted.

use std::cmp::Ordering;
use std::ops::ControlFlow;

use mongodb::bson::{Bson, Document};

use super::order::{compare, rank};
use super::{Effort, path, refused};
use crate::documents::DocumentsError;

/// What can be asked.
const KNOWN: &str = "$and, $or, $nor, $not, $eq, $ne, $gt, $gte, $lt, $lte, $in, $nin and $exists";

/// A condition on a document.
pub(super) enum Filter {
    All(Vec<Filter>),
    Any(Vec<Filter>),
    Not(Box<Filter>),
    Field(Vec<String>, Test),
}

/// A condition on what a path leads to.
pub(super) enum Test {
    Exists,
    /// Equal to one of these, which are in order.
    In(Vec<Operand>),
    /// Of the same type, and in this relation.
    Related(fn(Ordering) -> bool, Operand),
}

/// A value to compare with.
pub(super) struct Operand {
    value: Bson,
    /// What one comparison may cost.
    cost: usize,
}

impl Filter {
    /// Understands a filter.
    pub(super) fn new(filter: &Document) -> Result<Self, DocumentsError> {
        let mut all = Vec::with_capacity(filter.len());
        for (key, value) in filter {
            all.push(match key.as_str() {
                "$and" => Self::All(list(key, value)?),
                "$or" => Self::Any(list(key, value)?),
                "$nor" => Self::not(Self::Any(list(key, value)?)),
                key if key.starts_with('$') => return Err(unknown(key)),
                key => Self::field(&path::parse("filter", key)?, value)?,
            });
        }
        Ok(Self::All(all))
    }

    fn not(filter: Self) -> Self {
        Self::Not(Box::new(filter))
    }

    fn field(path: &[String], wanted: &Bson) -> Result<Self, DocumentsError> {
        let test = |test| Self::Field(path.to_vec(), test);
        match wanted {
            Bson::Document(operators) if operators.keys().any(|key| key.starts_with('$')) => {
                let conditions =
                    operators.iter().map(|(operator, value)| Self::operator(path, operator, value));
                Ok(Self::All(conditions.collect::<Result<_, _>>()?))
            }
            value => Ok(test(Test::In(vec![Operand::new(value)?]))),
        }
    }

    fn operator(path: &[String], operator: &str, value: &Bson) -> Result<Self, DocumentsError> {
        let test = |test| Self::Field(path.to_vec(), test);
        let related = |accepts| Ok(test(Test::Related(accepts, Operand::new(value)?)));
        match operator {
            "$eq" => Ok(test(Test::In(vec![Operand::new(value)?]))),
            "$ne" => Ok(Self::not(test(Test::In(vec![Operand::new(value)?])))),
            "$in" => Ok(test(Test::among(operator, value)?)),
            "$nin" => Ok(Self::not(test(Test::among(operator, value)?))),
            "$gt" => related(Ordering::is_gt),
            "$gte" => related(Ordering::is_ge),
            "$lt" => related(Ordering::is_lt),
            "$lte" => related(Ordering::is_le),
            "$exists" if is_true(value) => Ok(test(Test::Exists)),
            "$exists" => Ok(Self::not(test(Test::Exists))),
            "$not" => match value {
                Bson::Document(inner)
                    if inner.keys().next().is_some_and(|k| k.starts_with('$')) =>
                {
                    Ok(Self::not(Self::field(path, value)?))
                }
                _ => Err(refused("`$not` of the filter needs an object of operators".into())),
            },
            operator if operator.starts_with('$') => Err(unknown(operator)),
            name => Err(refused(format!(
                "the filter mixes operators with the field `{name}` in one object; write it as \
                 `{}.{name}`",
                path.join(".")
            ))),
        }
    }

    /// Whether a document is wanted.
    pub(super) fn wants(
        &self,
        document: &Document,
        effort: &mut Effort,
    ) -> Result<bool, DocumentsError> {
        effort.spend(1)?;
        match self {
            Self::All(filters) => {
                for filter in filters {
                    if !filter.wants(document, effort)? {
                        return Ok(false);
                    }
                }
                Ok(true)
            }
            Self::Any(filters) => {
                for filter in filters {
                    if filter.wants(document, effort)? {
                        return Ok(true);
                    }
                }
                Ok(false)
            }
            Self::Not(filter) => Ok(!filter.wants(document, effort)?),
            Self::Field(path, test) => {
                let went_on = path::walk(document, path, effort, |value, effort| {
                    match test.holds(value, effort) {
                        Ok(false) => ControlFlow::Continue(()),
                        Ok(true) => ControlFlow::Break(Ok(())),
                        Err(error) => ControlFlow::Break(Err(error)),
                    }
                })?;
                Ok(!went_on)
            }
        }
    }

    /// The text that a field of the document itself must equal.
    pub(super) fn pinned(&self, field: &str) -> Option<&str> {
        match self {
            Self::All(filters) => filters.iter().find_map(|filter| filter.pinned(field)),
            Self::Field(path, Test::In(values)) => match (path.as_slice(), values.as_slice()) {
                ([name], [Operand { value: Bson::String(text), .. }]) if name == field => {
                    Some(text)
                }
                _ => None,
            },
            _ => None,
        }
    }
}

impl Test {
    fn among(operator: &str, value: &Bson) -> Result<Self, DocumentsError> {
        let Bson::Array(values) = value else {
            return Err(refused(format!("`{operator}` of the filter needs a list")));
        };
        let mut values = values
            .iter()
            .map(|value| match value {
                Bson::Document(inner) if inner.keys().any(|key| key.starts_with('$')) => {
                    Err(refused(format!("`{operator}` of the filter has operators in its list")))
                }
                value => Operand::new(value),
            })
            .collect::<Result<Vec<_>, _>>()?;
        values.sort_by(|a, b| compare(&a.value, &b.value));
        Ok(Self::In(values))
    }

    /// Whether it holds for a value, or for an element of one that is a list.
    fn holds(&self, value: Option<&Bson>, effort: &mut Effort) -> Result<bool, DocumentsError> {
        if let Self::Exists = self {
            return Ok(value.is_some());
        }
        let value = value.unwrap_or(&Bson::Null);
        if self.holds_for(value, effort)? {
            return Ok(true);
        }
        for element in value.as_array().into_iter().flatten() {
            if self.holds_for(element, effort)? {
                return Ok(true);
            }
        }
        Ok(false)
    }

    fn holds_for(&self, value: &Bson, effort: &mut Effort) -> Result<bool, DocumentsError> {
        match self {
            Self::Exists => Ok(true),
            Self::Related(accepts, operand) => {
                effort.spend(operand.cost)?;
                let comparable = rank(value) == rank(&operand.value);
                Ok(comparable && accepts(compare(value, &operand.value)))
            }
            Self::In(operands) => {
                let mut spent = Ok(());
                let found = operands.binary_search_by(|operand| {
                    spent = spent.clone().and_then(|()| effort.spend(operand.cost));
                    compare(&operand.value, value)
                });
                spent.map(|()| found.is_ok())
            }
        }
    }
}

impl Operand {
    fn new(value: &Bson) -> Result<Self, DocumentsError> {
        let cost = cost(value)?;
        Ok(Self { value: value.clone(), cost })
    }
}

/// What comparing with it costs at most; an error for what is not compared here.
fn cost(value: &Bson) -> Result<usize, DocumentsError> {
    match value {
        Bson::Null | Bson::Int32(_) | Bson::Int64(_) | Bson::Double(_) => Ok(1),
        Bson::Boolean(_) | Bson::DateTime(_) | Bson::ObjectId(_) => Ok(1),
        Bson::String(text) => Ok(1 + text.len() / 64),
        Bson::Array(elements) => Ok(1 + sum(elements.iter().map(cost))?),
        Bson::Document(document) => Ok(1 + sum(document.values().map(cost))?),
        other => Err(refused(format!(
            "the filter has a value of the type {:?}, with which only MongoDB compares",
            other.element_type()
        ))),
    }
}

fn sum(
    costs: impl Iterator<Item = Result<usize, DocumentsError>>,
) -> Result<usize, DocumentsError> {
    costs.sum()
}

fn list(operator: &str, value: &Bson) -> Result<Vec<Filter>, DocumentsError> {
    let wrong = || refused(format!("`{operator}` of the filter needs a list of objects"));
    let filters = value.as_array().filter(|filters| !filters.is_empty()).ok_or_else(wrong)?;
    filters.iter().map(|filter| Filter::new(filter.as_document().ok_or_else(wrong)?)).collect()
}

fn is_true(value: &Bson) -> bool {
    match value {
        Bson::Boolean(value) => *value,
        Bson::Int32(number) => *number != 0,
        Bson::Int64(number) => *number != 0,
        Bson::Double(number) => *number != 0.0,
        Bson::Null | Bson::Undefined => false,
        _ => true,
    }
}

fn unknown(operator: &str) -> DocumentsError {
    refused(format!("the filter uses `{operator}`; without MongoDB there are {KNOWN}"))
}

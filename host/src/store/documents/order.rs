//! BSON's order of values: by type first, numbers of all types among each other.

use std::cmp::Ordering;

use mongodb::bson::{Bson, Document};

/// Values of different ranks are never equal, and one is not less than the other to a
/// filter; a sort orders them by rank.
pub(super) fn rank(value: &Bson) -> u8 {
    match value {
        Bson::MinKey => 0,
        Bson::Undefined => 1,
        Bson::Null => 2,
        Bson::Int32(_) | Bson::Int64(_) | Bson::Double(_) | Bson::Decimal128(_) => 3,
        Bson::Symbol(_) | Bson::String(_) => 4,
        Bson::Document(_) => 5,
        Bson::Array(_) => 6,
        Bson::Binary(_) => 7,
        Bson::ObjectId(_) => 8,
        Bson::Boolean(_) => 9,
        Bson::DateTime(_) => 10,
        Bson::Timestamp(_) => 11,
        Bson::RegularExpression(_) => 12,
        Bson::MaxKey => 14,
        _ => 13,
    }
}

/// Which comes first.
pub(super) fn compare(a: &Bson, b: &Bson) -> Ordering {
    rank(a).cmp(&rank(b)).then_with(|| match (a, b) {
        (Bson::String(a), Bson::String(b)) => a.cmp(b),
        (Bson::Document(a), Bson::Document(b)) => documents(a, b),
        (Bson::Array(a), Bson::Array(b)) => {
            let differing = a.iter().zip(b).map(|(a, b)| compare(a, b)).find(|o| o.is_ne());
            differing.unwrap_or_else(|| a.len().cmp(&b.len()))
        }
        (Bson::ObjectId(a), Bson::ObjectId(b)) => a.cmp(b),
        (Bson::Boolean(a), Bson::Boolean(b)) => a.cmp(b),
        (Bson::DateTime(a), Bson::DateTime(b)) => a.cmp(b),
        _ => numbers(a, b),
    })
}

/// Field by field: the type, then the name, then the value.
fn documents(a: &Document, b: &Document) -> Ordering {
    let fields = a.iter().zip(b).map(|((a_name, a), (b_name, b))| {
        rank(a).cmp(&rank(b)).then_with(|| a_name.cmp(b_name)).then_with(|| compare(a, b))
    });
    fields.into_iter().find(|order| order.is_ne()).unwrap_or_else(|| a.len().cmp(&b.len()))
}

fn numbers(a: &Bson, b: &Bson) -> Ordering {
    match (whole(a), whole(b)) {
        (Some(a), Some(b)) => a.cmp(&b),
        (Some(a), None) => fraction(b).map_or(Ordering::Equal, |b| mixed(a, b)),
        (None, Some(b)) => fraction(a).map_or(Ordering::Equal, |a| mixed(b, a).reverse()),
        (None, None) => match (fraction(a), fraction(b)) {
            // What is no number comes first.
            (Some(a), Some(b)) => a.partial_cmp(&b).unwrap_or_else(|| b.is_nan().cmp(&a.is_nan())),
            _ => Ordering::Equal,
        },
    }
}

fn whole(value: &Bson) -> Option<i64> {
    match value {
        Bson::Int32(number) => Some((*number).into()),
        Bson::Int64(number) => Some(*number),
        _ => None,
    }
}

fn fraction(value: &Bson) -> Option<f64> {
    match value {
        Bson::Double(number) => Some(*number),
        _ => None,
    }
}

/// Exact, also where the whole number has no `f64`.
fn mixed(a: i64, b: f64) -> Ordering {
    // 2^63 is an f64; every f64 below it in size has a whole part that is an i64.
    const EDGE: f64 = 9_223_372_036_854_775_808.0;
    if b.is_nan() || b < -EDGE {
        return Ordering::Greater;
    }
    if b >= EDGE {
        return Ordering::Less;
    }
    #[expect(clippy::cast_possible_truncation, reason = "in range, and cut to its whole part")]
    let (part, rest) = (b.trunc() as i64, b.fract());
    a.cmp(&part).then_with(|| 0.0.partial_cmp(&rest).unwrap_or(Ordering::Equal))
}

#[cfg(test)]
mod tests {
    use mongodb::bson::{DateTime, bson, doc};

    use super::*;

    #[test]
    fn values_are_in_the_order_of_their_types_and_then_their_own() {
        let rising = [
            Bson::Null,
            Bson::Double(f64::NAN),
            Bson::Double(f64::NEG_INFINITY),
            bson!(i64::MIN),
            bson!(-1.5),
            bson!(-1),
            bson!(0),
            bson!(0.5),
            bson!(1),
            bson!(9_007_199_254_740_992.0),
            bson!(9_007_199_254_740_993_i64),
            bson!(i64::MAX),
            bson!(9_223_372_036_854_775_808.0),
            Bson::Double(f64::INFINITY),
            bson!(""),
            bson!("B"),
            bson!("a"),
            bson!("ab"),
            bson!({}),
            bson!({"b": 1}),
            bson!({"b": 1, "a": 0}),
            bson!({"a": "x"}),
            bson!([]),
            bson!([1]),
            bson!([1, 0]),
            bson!([2]),
            bson!(false),
            bson!(true),
            Bson::DateTime(DateTime::from_millis(-5)),
            Bson::DateTime(DateTime::from_millis(5)),
        ];
        for (i, a) in rising.iter().enumerate() {
            for (j, b) in rising.iter().enumerate() {
                assert_eq!(compare(a, b), i.cmp(&j), "{a} and {b}");
            }
        }
    }

    #[test]
    fn one_number_is_one_value_whatever_its_type() {
        for (a, b) in [(bson!(1), bson!(1.0)), (bson!(1_i64), bson!(1)), (bson!(0), bson!(-0.0))] {
            assert_eq!(compare(&a, &b), Ordering::Equal);
        }
        let (a, b) = (doc! {"n": [1, {"m": 2.0}]}, doc! {"n": [1.0, {"m": 2_i64}]});
        assert_eq!(compare(&Bson::Document(a), &Bson::Document(b)), Ordering::Equal);
    }
}

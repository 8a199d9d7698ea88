//! Types of the component model, written as WIT.

use wasmtime::component::Type;
use wasmtime::component::types::ComponentFunc;

/// The records of `flowkit:worker/types` by their fields: a component's type carries no
/// names of records, and their authors know them by name.
const RECORDS: [(&str, &str); 4] = [
    ("handler-error", "record { message: string, detail: option<string> }"),
    ("classification", "record { reason-code: string, permanent: bool }"),
    ("batch", "record { uid: option<string>, payload: string }"),
    ("cancellation", "record { source: string, reason: string, remaining-ms: u32 }"),
];

/// A few bytes of a component can spell a type whose text would fill the memory.
const MAX_TEXT: usize = 600;

/// `func(batch: batch) -> result<string, handler-error>`, cut where it is very long.
pub(super) fn function(function: &ComponentFunc) -> String {
    let mut text = String::new();
    text.push_str(if function.async_() { "async func(" } else { "func(" });
    for (index, (name, ty)) in function.params().enumerate() {
        if index > 0 {
            text.push_str(", ");
        }
        text.push_str(name);
        text.push_str(": ");
        push(&mut text, &ty);
    }
    text.push(')');
    if let Some(result) = function.results().next() {
        text.push_str(" -> ");
        push(&mut text, &result);
    }
    if text.len() > MAX_TEXT {
        text.truncate(super::text::cut(&text, MAX_TEXT).len());
        text.push('…');
    }
    text
}

fn push(text: &mut String, ty: &Type) {
    if text.len() > MAX_TEXT {
        return;
    }
    match ty {
        Type::List(list) => wrapped(text, "list", &[Some(list.ty())]),
        Type::Option(option) => wrapped(text, "option", &[Some(option.ty())]),
        Type::Result(result) => push_result(text, result.ok(), result.err()),
        Type::Tuple(tuple) => {
            let types: Vec<_> = tuple.types().map(Some).collect();
            wrapped(text, "tuple", &types);
        }
        Type::Record(record) => {
            let start = text.len();
            let fields = record.fields().map(|field| (field.name, Some(field.ty)));
            braced(text, "record", fields);
            if let Some((name, _)) = RECORDS.iter().find(|(_, shape)| *shape == &text[start..]) {
                text.replace_range(start.., name);
            }
        }
        Type::Variant(variant) => {
            braced(text, "variant", variant.cases().map(|case| (case.name, case.ty)));
        }
        Type::Enum(names) => braced(text, "enum", names.names().map(|name| (name, None))),
        Type::Flags(names) => braced(text, "flags", names.names().map(|name| (name, None))),
        simple => text.push_str(simple_name(simple)),
    }
}

fn push_result(text: &mut String, ok: Option<Type>, err: Option<Type>) {
    match (ok, err) {
        (None, None) => text.push_str("result"),
        (ok, None) => wrapped(text, "result", &[ok]),
        (ok, err) => wrapped(text, "result", &[ok, err]),
    }
}

fn wrapped(text: &mut String, name: &str, types: &[Option<Type>]) {
    text.push_str(name);
    text.push('<');
    for (index, ty) in types.iter().enumerate() {
        if index > 0 {
            text.push_str(", ");
        }
        match ty {
            Some(ty) => push(text, ty),
            None => text.push('_'),
        }
    }
    text.push('>');
}

fn braced<'a>(
    text: &mut String,
    name: &str,
    entries: impl Iterator<Item = (&'a str, Option<Type>)>,
) {
    text.push_str(name);
    text.push_str(" { ");
    for (index, (entry, ty)) in entries.enumerate() {
        if text.len() > MAX_TEXT {
            break;
        }
        if index > 0 {
            text.push_str(", ");
        }
        text.push_str(entry);
        if let Some(ty) = ty {
            text.push_str(": ");
            push(text, &ty);
        }
    }
    text.push_str(" }");
}

fn simple_name(ty: &Type) -> &'static str {
    match ty {
        Type::Bool => "bool",
        Type::S8 => "s8",
        Type::U8 => "u8",
        Type::S16 => "s16",
        Type::U16 => "u16",
        Type::S32 => "s32",
        Type::U32 => "u32",
        Type::S64 => "s64",
        Type::U64 => "u64",
        Type::Float32 => "f32",
        Type::Float64 => "f64",
        Type::Char => "char",
        Type::String => "string",
        Type::Own(_) => "own<resource>",
        Type::Borrow(_) => "borrow<resource>",
        // Types of later component-model drafts, which no function of the world has.
        _ => "another type",
    }
}

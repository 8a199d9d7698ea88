//! The values that were given, laid over each other: the file, then the environment, then
//! the command line; and for each where it comes from.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::path::{Path, PathBuf};

use serde_json::{Map, Value};

use super::error::{ConfigError, Origin, Problem, unknown_key};
use super::keys::{Form, NAMES, form};
use super::place::{KeyPath, Place, index};

/// What a variable's name begins with.
const PREFIX: &str = "FLOWKIT_";

/// A config file that is larger was named by mistake.
const MAX_FILE_BYTES: u64 = 4 << 20;

#[derive(Debug, Default)]
pub(super) struct Layers {
    given: Value,
    origins: BTreeMap<KeyPath, Origin>,
}

impl Layers {
    /// No layer yet.
    pub fn new() -> Self {
        Self { given: Value::Object(Map::new()), origins: BTreeMap::new() }
    }

    /// A config file as the lowest layer.
    pub fn of_file(path: &Path) -> Result<Self, ConfigError> {
        let text = read(path)?;
        let text = text.strip_prefix('\u{feff}').unwrap_or(&text);
        let at = |place| Origin::File { path: path.to_owned(), place };
        let given: Value = serde_json::from_str(text).map_err(|error| {
            let place = Place { line: error.line(), column: error.column().max(1) };
            let text = error.to_string().replace("EOF while parsing", "the file ends within");
            let what = text.split(" at line ").next().unwrap_or_default();
            Problem { origin: Some(at(place)), key: None, text: format!("not JSON: {what}") }
        })?;
        if !given.is_object() {
            let text = "a configuration is a JSON object, `{…}`".into();
            let place = Place { line: 1, column: 1 };
            return Err(Problem { origin: Some(at(place)), key: None, text }.into());
        }
        let index = index(text);
        let repeated = index.repeated.into_iter().map(|(key, place)| Problem {
            origin: Some(at(place)),
            key: Some(key),
            text: "this key stands here a second time; remove one of the two".into(),
        });
        ConfigError::unless_empty(repeated.collect())?;
        let origins = index.places.into_iter().map(|(key, place)| (key, at(place))).collect();
        Ok(Self { given, origins })
    }

    /// Lays the environment's `FLOWKIT_…` variables over what is there.
    pub fn add_environment(
        &mut self,
        variables: &[(OsString, OsString)],
    ) -> Result<(), ConfigError> {
        let mut problems = Vec::new();
        for (name, value) in variables {
            let Some(name) = name.to_str().filter(|n| n.starts_with(PREFIX)) else { continue };
            let key = name[PREFIX.len()..].to_ascii_lowercase();
            let origin = Origin::Env(name.to_owned());
            let added = match value.to_str() {
                None => Err("its value is not UTF-8".to_owned()),
                Some(_) if name != format!("{PREFIX}{}", key.to_ascii_uppercase()) => {
                    Err(format!("write it in capitals, {PREFIX}{}", key.to_ascii_uppercase()))
                }
                Some(_) if form(&key).is_none() => Err(unknown_variable(&key)),
                Some(text) => self.set(&KeyPath::of([key]), text, origin.clone()),
            };
            if let Err(text) = added {
                problems.push(Problem { origin: Some(origin), key: None, text });
            }
        }
        ConfigError::unless_empty(problems)
    }

    /// Lays one `--set key=value` over what is there.
    pub fn add_assignment(&mut self, assignment: &str) -> Result<(), ConfigError> {
        let problem =
            |origin, key, text| Problem { origin: Some(Origin::Option(origin)), key, text };
        let Some((name, value)) = assignment.split_once('=') else {
            let origin = format!("--set {assignment}");
            return Err(problem(origin, None, "write it as `--set KEY=VALUE`".into()).into());
        };
        let origin = format!("--set {name}");
        let Some(key) = KeyPath::parse(name) else {
            let text = "a key is written as `lease_ttl_sec` or `handlers.ROLE.component`; a role \
                        with a dot in it stands in double quotes";
            return Err(problem(origin, None, text.into()).into());
        };
        if form(&key.steps()[0]).is_none() {
            let text = unknown_key(&key.steps()[0], &NAMES);
            return Err(problem(origin, Some(key), text).into());
        }
        self.set(&key, value, Origin::Option(origin.clone()))
            .map_err(|text| problem(origin, Some(key), text).into())
    }

    /// Lays an option that has a name of its own, such as `--db`, over what is there.
    pub fn add_option(&mut self, option: &str, key: &'static str, value: Value) {
        let key = KeyPath::of([key]);
        self.put(&key, value, Origin::Option(option.to_owned())).unwrap_or_default();
    }

    /// Everything given, as one object.
    pub fn given(&self) -> &Value {
        &self.given
    }

    /// Where the value at `key` comes from: what set it, or the nearest thing around it.
    pub fn origin(&self, key: &KeyPath) -> Origin {
        let mut at = Some(key.clone());
        while let Some(path) = at {
            if let Some(origin) = self.origins.get(&path) {
                return origin.clone();
            }
            at = path.parent();
        }
        Origin::Default
    }

    /// Where the value at `key` comes from, and [`Origin::Default`] when nobody gave it,
    /// whatever was given around it.
    pub fn origin_of_value(&self, key: &KeyPath) -> Origin {
        let pointer: String =
            key.steps().iter().map(|step| format!("/{}", escaped(step))).collect();
        match self.given.pointer(&pointer) {
            Some(_) => self.origin(key),
            None => Origin::Default,
        }
    }

    /// The directory that a relative path at `key` starts from: the config file's for what
    /// it says, else the process's own.
    pub fn base(&self, key: &KeyPath) -> PathBuf {
        match self.origin(key) {
            Origin::File { path, .. } => path.parent().map(Path::to_owned).unwrap_or_default(),
            _ => PathBuf::new(),
        }
    }

    fn set(&mut self, key: &KeyPath, text: &str, origin: Origin) -> Result<(), String> {
        let value = match key.steps() {
            [top] => parse(form(top).unwrap_or(Form::Json), text),
            _ => parse(Form::Json, text),
        };
        self.put(key, value, origin)
    }

    fn put(&mut self, key: &KeyPath, value: Value, origin: Origin) -> Result<(), String> {
        let mut place = &mut self.given;
        let mut reached = KeyPath::default();
        for step in key.steps() {
            place = match place {
                Value::Array(elements) => {
                    let count = elements.len();
                    let number =
                        step.parse::<usize>().ok().filter(|n| *n <= count).ok_or_else(|| {
                            format!(
                                "`{reached}` is a list of {count}; name an element by its number"
                            )
                        })?;
                    if number == count {
                        elements.push(Value::Null);
                    }
                    &mut elements[number]
                }
                Value::Object(members) => members.entry(step).or_insert(Value::Null),
                Value::Null => {
                    *place = Value::Object(Map::new());
                    &mut place[step]
                }
                _ => return Err(format!("`{reached}` is neither an object nor a list")),
            };
            reached = reached.then(step);
        }
        *place = value;
        self.origins.retain(|path, _| !path.is_within(key));
        self.origins.insert(key.clone(), origin);
        Ok(())
    }
}

fn read(path: &Path) -> Result<String, ConfigError> {
    let problem = |text: String| Problem { origin: None, key: None, text };
    let cannot = |why: &dyn std::fmt::Display| {
        problem(format!("cannot read the config file {}: {why}", path.display()))
    };
    let length = std::fs::metadata(path).map_err(|error| cannot(&error))?.len();
    if length > MAX_FILE_BYTES {
        return Err(cannot(&format!("it has {length} bytes; at most {MAX_FILE_BYTES}")).into());
    }
    let bytes = std::fs::read(path).map_err(|error| cannot(&error))?;
    String::from_utf8(bytes).map_err(|error| {
        let sound = error.utf8_error().valid_up_to();
        let line = error.as_bytes()[..sound].iter().filter(|b| **b == b'\n').count() + 1;
        cannot(&format!("line {line} is not UTF-8")).into()
    })
}

fn parse(form: Form, text: &str) -> Value {
    let json = serde_json::from_str::<Value>(text).ok();
    match (form, json) {
        (Form::Text, Some(value @ (Value::String(_) | Value::Null))) => value,
        (Form::Text, _) => text.into(),
        (Form::List, Some(value @ Value::Array(_))) => value,
        (Form::List, _) => text.split(',').map(str::trim).filter(|part| !part.is_empty()).collect(),
        (Form::Json, Some(value)) => value,
        (Form::Json, None) => text.into(),
    }
}

fn unknown_variable(key: &str) -> String {
    let text = unknown_key(key, &NAMES);
    match text.split_once('`').and_then(|(_, near)| near.split_once("`?")) {
        Some((near, _)) => format!("unknown; did you mean {PREFIX}{}?", near.to_ascii_uppercase()),
        None => {
            format!("unknown; {PREFIX} is followed by a key, as `flowkit config show` lists them")
        }
    }
}

fn escaped(step: &str) -> String {
    step.replace('~', "~0").replace('/', "~1")
}

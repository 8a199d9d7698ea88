//! What can be read from a component's file without running it.

use std::collections::BTreeSet;
use std::path::Path;

use serde::Serialize;
use wasmparser::{Encoding, KnownCustom, Parser, Payload, ProducersSectionReader};

use super::config::HandlerConfig;
use super::engine::Engine;
use super::file::{self, NotWasm};
use super::load::{CheckError, Priority, unreadable};
use super::text;

/// Most names of a kind that are kept; a file may have millions.
const MAX_NAMES: usize = 200;
/// Longest name that is kept whole.
const MAX_NAME: usize = 200;
/// Bytes of one page of a memory, unless it says otherwise.
const PAGE: u64 = 64 << 10;

/// What a file is made of. Names come from the file and are made fit to be shown.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Anatomy {
    /// Lowercase hex SHA-256 of the file.
    pub digest: String,
    /// Its size.
    pub bytes: u64,
    /// The interfaces and functions it exports.
    pub exports: Vec<String>,
    /// The interfaces and functions it imports. An import grants nothing by itself.
    pub imports: Vec<String>,
    /// What its author most likely wrote it in.
    pub language: Option<&'static str>,
    /// The languages its parts were written in, such as `C11`, as their compilers say: the
    /// libraries and the interpreter too.
    pub parts: Vec<String>,
    /// The tools that made it, with their versions.
    pub tools: Vec<String>,
    /// How many core modules it holds.
    pub modules: u32,
    /// Bytes of all memories at the start: no limit below them can hold an instance.
    pub memory_bytes: u64,
    /// Elements of all tables at the start.
    pub table_elements: u64,
    /// What the file is instead of a component, or where it is damaged.
    pub problem: Option<String>,
}

impl Anatomy {
    /// Reads a file, whatever is in it. Blocks.
    pub fn read(path: &Path) -> Result<Self, CheckError> {
        let bytes = file::read_bytes(path).map_err(|error| unreadable(path, error))?;
        let mut found =
            Self { digest: file::digest(&bytes), bytes: bytes.len() as u64, ..Self::default() };
        let other = file::sniff(&bytes);
        found.problem = other.map(|other| other.to_string());
        if matches!(other, None | Some(NotWasm::CoreModule)) {
            let mut reader = Reader { found, ..Reader::default() };
            if let Err(error) = reader.read(&bytes) {
                let damaged = || format!("the file is damaged: {error}");
                reader.found.problem.get_or_insert_with(damaged);
            }
            found = reader.finish();
            found.language = language(&bytes, &found);
        }
        Ok(found)
    }

    /// The version of `flowkit:worker` whose handler it exports, if it does.
    pub fn world_version(&self) -> Option<&str> {
        self.exports.iter().find_map(|name| name.strip_prefix("flowkit:worker/handler@"))
    }

    /// What a role must grant it, and what it can use if it is granted, as keys of
    /// `handlers.ROLE`.
    pub fn capabilities(&self) -> Capabilities {
        let imports = |prefix: &str| self.imports.iter().any(|name| name.starts_with(prefix));
        let known = [
            ("dirs", "wasi:filesystem/"),
            ("env", "wasi:cli/environment"),
            ("documents", "flowkit:worker/documents"),
        ];
        let wanted = known.into_iter().filter(|(_, prefix)| imports(prefix));
        Capabilities {
            needed: imports("wasi:http/").then_some("http").into_iter().collect(),
            usable: wanted.map(|(key, _)| key).collect(),
        }
    }
}

/// Grants, as keys of `handlers.ROLE`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Capabilities {
    /// Without these a worker refuses it.
    pub needed: Vec<&'static str>,
    /// Without these it runs and finds nothing there. A language's library may import them
    /// whether the handler uses them or not.
    pub usable: Vec<&'static str>,
}

/// Why no worker would take a file, without running it: it is compiled and compared with
/// the world, and not instantiated.
pub async fn refusal(path: &Path) -> Result<(), CheckError> {
    Engine::new()?.compile(None, &HandlerConfig::new(path), Priority::Normal).await.map(drop)
}

#[derive(Default)]
struct Reader {
    found: Anatomy,
    parts: BTreeSet<String>,
    tools: BTreeSet<String>,
    /// The components and modules around what is being read.
    around: Vec<Encoding>,
}

impl Reader {
    fn read(&mut self, bytes: &[u8]) -> wasmparser::Result<()> {
        for payload in Parser::new(0).parse_all(bytes) {
            self.take(payload?)?;
        }
        Ok(())
    }

    fn take(&mut self, payload: Payload<'_>) -> wasmparser::Result<()> {
        match payload {
            Payload::Version { encoding, .. } => {
                self.found.modules += u32::from(encoding == Encoding::Module);
                self.around.push(encoding);
            }
            Payload::End(_) => drop(self.around.pop()),
            Payload::ComponentImportSection(imports) if self.around.len() == 1 => {
                for import in imports {
                    keep(&mut self.found.imports, import?.name.name);
                }
            }
            Payload::ComponentExportSection(exports) if self.around.len() == 1 => {
                for export in exports {
                    keep(&mut self.found.exports, export?.name.name);
                }
            }
            Payload::MemorySection(memories) => {
                for memory in memories {
                    let memory = memory?;
                    let page = memory.page_size_log2.map_or(PAGE, |log2| 1 << log2.min(16));
                    let held = memory.initial.saturating_mul(page);
                    self.found.memory_bytes = self.found.memory_bytes.saturating_add(held);
                }
            }
            Payload::TableSection(tables) => {
                for table in tables {
                    let elements = table?.ty.initial;
                    self.found.table_elements = self.found.table_elements.saturating_add(elements);
                }
            }
            Payload::CustomSection(section) => {
                if let KnownCustom::Producers(producers) = section.as_known() {
                    // What a tool wrote for people may be anything.
                    let _ = self.producers(producers);
                }
            }
            _ => {}
        }
        Ok(())
    }

    fn producers(&mut self, producers: ProducersSectionReader<'_>) -> wasmparser::Result<()> {
        for field in producers {
            let field = field?;
            let kept = if field.name == "language" { &mut self.parts } else { &mut self.tools };
            for value in field.values {
                let value = value?;
                if kept.len() < MAX_NAMES {
                    let shown = format!("{} {}", cut(value.name), cut(value.version));
                    kept.insert(shown.trim_end().to_owned());
                }
            }
        }
        Ok(())
    }

    fn finish(self) -> Anatomy {
        let (parts, tools) = (self.parts.into_iter(), self.tools.into_iter());
        let mut found = Anatomy { parts: parts.collect(), tools: tools.collect(), ..self.found };
        found.imports.sort();
        found.exports.sort();
        found
    }
}

/// An interpreter inside tells more than the compiler that built it. Of what Rust guests
/// contain, only their own glue is in no other guest.
fn language(bytes: &[u8], found: &Anatomy) -> Option<&'static str> {
    let holds = |mark: &str| bytes.windows(mark.len()).any(|part| part == mark.as_bytes());
    let written = |start: &str| found.parts.iter().any(|part| part.starts_with(start));
    let made = |tool: &str| found.tools.iter().any(|made| made.starts_with(tool));
    let marks =
        [("libpython3", "Python"), ("quickjs", "JavaScript"), ("SpiderMonkey", "JavaScript")];
    if let Some((_, language)) = marks.into_iter().find(|(mark, _)| holds(mark)) {
        return Some(language);
    }
    let rules = [
        (written("Go"), "Go"),
        (made("wit-bindgen-rust"), "Rust"),
        (written("C_plus_plus"), "C++"),
        (written("C"), "C"),
        (written("Rust"), "Rust"),
    ];
    rules.into_iter().find(|(fits, _)| *fits).map(|(_, language)| language)
}

fn keep(names: &mut Vec<String>, name: &str) {
    if names.len() < MAX_NAMES {
        names.push(cut(name));
    }
}

fn cut(name: &str) -> String {
    text::line(text::cut(name, MAX_NAME).as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(bytes: &[u8]) -> Anatomy {
        let dir = tempfile::tempdir().expect("a directory");
        let file = dir.path().join("x.wasm");
        std::fs::write(&file, bytes).expect("written");
        Anatomy::read(&file).expect("any file can be read")
    }

    #[test]
    fn whatever_it_is_its_size_and_digest_are_told() {
        let text = read(b"print()\n");
        assert_eq!((text.bytes, text.digest.len()), (8, 64));
        assert!(text.problem.expect("no component").starts_with("the file is text"));
        let module = read(b"\0asm\x01\0\0\0\x05\x03\x01\0\x02");
        assert_eq!((module.modules, module.memory_bytes), (1, 2 * PAGE));
        assert!(module.problem.expect("no component").contains("core WebAssembly module"));
        let cut_off = read(b"\0asm\x0d\0\x01\0\x0a\x7f");
        assert!(cut_off.problem.expect("damaged").starts_with("the file is damaged"));
        assert_eq!(read(b"\0asm\x0d\0\x01\0").problem, None);
    }
}

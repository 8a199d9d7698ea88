//! Reads a component's file and tells what it is by its first bytes.

use std::fs::File;
use std::io::Read;
use std::path::Path;

use sha2::{Digest, Sha256};

/// Largest file that is read. A Python handler with its interpreter has 18 MB.
pub(super) const MAX_FILE: u64 = 256 << 20;

/// What a file is instead of a WebAssembly component.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum NotWasm {
    /// No byte.
    #[error("the file is empty; was its build or its copy interrupted?")]
    Empty,
    /// `\x7fELF`, which wasmtime's own precompiled files are too.
    #[error(
        "the file is a native program or library (ELF), or precompiled for one machine \
         (.cwasm); build the handler with `--target wasm32-wasip2` and give the .wasm"
    )]
    Native,
    /// WebAssembly's text format.
    #[error(
        "the file is WebAssembly text; turn it into a binary with `wasm-tools parse FILE -o \
         handler.wasm`"
    )]
    WasmText,
    /// Any other text.
    #[error("the file is text; give the compiled .wasm, not its source")]
    Text,
    /// A module without the component layer.
    #[error(
        "the file is a core WebAssembly module, not a component; build with `--target \
         wasm32-wasip2`, or wrap it with `wasm-tools component new`"
    )]
    CoreModule,
    /// An archive, or compressed.
    #[error("the file is compressed ({0}); unpack it and give the .wasm that is in it")]
    Packed(&'static str),
    /// Anything else.
    #[error(
        "the file is not WebAssembly: it does not begin with `\\0asm`; give the .wasm that the \
         build made"
    )]
    Unknown,
}

/// A component's bytes.
#[derive(Debug)]
pub(super) struct Contents {
    pub(super) bytes: Vec<u8>,
    /// Lowercase hex SHA-256.
    pub(super) digest: String,
}

/// Why a file could not be taken.
#[derive(Debug)]
pub(super) enum ReadError {
    Io(std::io::Error),
    TooLarge,
    NotWasm(NotWasm),
}

/// Reads a file that begins like a component. Blocks.
pub(super) fn read(path: &Path) -> Result<Contents, ReadError> {
    let bytes = read_bytes(path)?;
    if let Some(other) = sniff(&bytes) {
        return Err(ReadError::NotWasm(other));
    }
    let digest = digest(&bytes);
    Ok(Contents { bytes, digest })
}

/// Lowercase hex SHA-256.
pub(super) fn digest(bytes: &[u8]) -> String {
    hex(&Sha256::digest(bytes))
}

/// Reads a file whatever it holds. Blocks.
pub(super) fn read_bytes(path: &Path) -> Result<Vec<u8>, ReadError> {
    let file = File::open(path).map_err(ReadError::Io)?;
    if file.metadata().map_err(ReadError::Io)?.is_dir() {
        return Err(ReadError::Io(std::io::ErrorKind::IsADirectory.into()));
    }
    let mut bytes = Vec::new();
    // By what is read, not by what the metadata promises: the file may grow meanwhile.
    file.take(MAX_FILE + 1).read_to_end(&mut bytes).map_err(ReadError::Io)?;
    if bytes.len() as u64 > MAX_FILE {
        return Err(ReadError::TooLarge);
    }
    Ok(bytes)
}

/// The digest of a file, whatever it is: lowercase hex SHA-256. Blocks.
pub fn digest_of(path: &Path) -> std::io::Result<String> {
    Ok(hex(&Sha256::digest(&std::fs::read(path)?)))
}

/// What a file is if it does not begin like a component.
pub(super) fn sniff(bytes: &[u8]) -> Option<NotWasm> {
    // The second half of the preamble is a version and a layer: 1 and 0 for modules,
    // 13 and 1 for today's components.
    match bytes {
        [] => Some(NotWasm::Empty),
        [0, b'a', b's', b'm', _, _, 1, 0, ..] => None,
        [0, b'a', b's', b'm', ..] => Some(NotWasm::CoreModule),
        [0x7f, b'E', b'L', b'F', ..] => Some(NotWasm::Native),
        [0x1f, 0x8b, ..] => Some(NotWasm::Packed("gzip")),
        [b'P', b'K', 3, 4, ..] => Some(NotWasm::Packed("zip")),
        [0x28, 0xb5, 0x2f, 0xfd, ..] => Some(NotWasm::Packed("zstd")),
        _ => Some(sniff_text(bytes)),
    }
}

fn sniff_text(bytes: &[u8]) -> NotWasm {
    let start = &bytes[..bytes.len().min(4096)];
    let text = match std::str::from_utf8(start) {
        Ok(text) => text,
        // A character cut at the end of the sample is still text.
        Err(error) if error.valid_up_to() + 4 > start.len() && start.len() == 4096 => "text",
        Err(_) => return NotWasm::Unknown,
    };
    let code = text.trim_start();
    if code.starts_with("(module") || code.starts_with("(component") {
        NotWasm::WasmText
    } else if text.chars().any(|c| c.is_control() && !c.is_whitespace()) {
        NotWasm::Unknown
    } else {
        NotWasm::Text
    }
}

pub(super) fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write as _;
    bytes.iter().fold(String::with_capacity(bytes.len() * 2), |mut text, byte| {
        // Writing to a string cannot fail.
        let _ = write!(text, "{byte:02x}");
        text
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_are_told_apart_by_their_first_bytes() {
        for (bytes, wanted) in [
            (&b""[..], Some(NotWasm::Empty)),
            (b"\0asm\x0d\0\x01\0rest", None),
            (b"\0asm\x01\0\0\0rest", Some(NotWasm::CoreModule)),
            (b"\0asm", Some(NotWasm::CoreModule)),
            (b"\x7fELF\x02\x01", Some(NotWasm::Native)),
            (b"  (component)", Some(NotWasm::WasmText)),
            (b"fn main() {}\n", Some(NotWasm::Text)),
            (b"PK\x03\x04", Some(NotWasm::Packed("zip"))),
            (b"\x1f\x8b\x08", Some(NotWasm::Packed("gzip"))),
            (b"\xff\xfe\0", Some(NotWasm::Unknown)),
        ] {
            assert_eq!(sniff(bytes), wanted, "{bytes:?}");
        }
    }

    #[test]
    fn a_sample_may_end_inside_a_character() {
        let mut long = "x".repeat(4095);
        long.push('Ω');
        assert_eq!(sniff(long.as_bytes()), Some(NotWasm::Text));
    }
}

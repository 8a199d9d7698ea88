//! Which components may run: pinned digests and signatures.
//!
//! A signature is an ed25519 signature over `flowkit plugin signature v1`, a zero byte and
//! the 32 bytes of the file's SHA-256. Its file is one line: `flowkit-signature-v1`, the
//! public key and the signature in hex, with spaces between them. A public key is written
//! `ed25519:HEX`, a secret key is one line `flowkit-secret-key-v1 HEX` in a file of mode 0600.

use std::io::{Read, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use ed25519_dalek::{Signature, Signer, SigningKey, VerifyingKey};
use serde::{Deserialize, Serialize};

use super::file::hex;

const DOMAIN: &[u8] = b"flowkit plugin signature v1\0";
const SIGNATURE: &str = "flowkit-signature-v1";
const SECRET: &str = "flowkit-secret-key-v1";
const PUBLIC: &str = "ed25519:";

/// A public key that is trusted to sign plugins.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct PublicKey(VerifyingKey);

/// A key that signs plugins.
pub struct SecretKey(SigningKey);

/// Whose signatures are wanted.
#[derive(Debug, Clone, Default)]
pub struct Trust {
    /// The keys that count.
    pub keys: Vec<PublicKey>,
    /// Refuse what none of them has signed.
    pub require_signed: bool,
}

/// Why a component is not trusted, or a key not usable.
#[derive(Debug, thiserror::Error)]
pub enum TrustError {
    /// Signatures are required, and there is none.
    #[error(
        "it is not signed: there is no {}, and `plugins.require_signed` is on; sign it with \
         `flowkit plugin sign FILE --key KEYFILE`",
        .0.display()
    )]
    Unsigned(PathBuf),
    /// No trusted key made the signature.
    #[error(
        "it is signed by {0}, which is not among `plugins.trusted_keys`; add the key there if \
         you trust it"
    )]
    Stranger(String),
    /// The signature is for other content.
    #[error(
        "its signature does not fit its content; it was changed after it was signed: sign it \
         again with `flowkit plugin sign FILE --key KEYFILE`, or restore what was signed"
    )]
    Forged,
    /// Not the text of a signature or key.
    #[error("{0}")]
    Malformed(&'static str),
    /// A file cannot be read or written.
    #[error("{}: {error}", .path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// Why.
        error: std::io::Error,
    },
}

impl Trust {
    /// Whether a component may run. `signature` is what its signature file says, `None`
    /// where there is no such file. `demanded`: the role's configuration names one.
    pub(super) fn check(
        &self,
        digest: &str,
        (file, signature): (&Path, Option<&str>),
        demanded: bool,
    ) -> Result<(), TrustError> {
        if !self.require_signed && !demanded {
            return Ok(());
        }
        let signature = signature.ok_or_else(|| TrustError::Unsigned(file.to_owned()))?;
        let signer = verify(digest, signature)?;
        if self.keys.contains(&signer) {
            Ok(())
        } else {
            Err(TrustError::Stranger(signer.to_string()))
        }
    }
}

/// Who signed the content with this digest, if the signature fits it.
pub fn verify(digest: &str, signature: &str) -> Result<PublicKey, TrustError> {
    const BAD: TrustError = TrustError::Malformed(
        "its signature file is none: expected `flowkit-signature-v1 PUBLIC-KEY SIGNATURE`; sign \
         it again with `flowkit plugin sign FILE --key KEYFILE`",
    );
    let mut words = signature.split_whitespace();
    let (Some(SIGNATURE), Some(key), Some(signed), None) =
        (words.next(), words.next(), words.next(), words.next())
    else {
        return Err(BAD);
    };
    let key: PublicKey = key.parse()?;
    let signed = Signature::from_bytes(&unhex::<64>(signed).ok_or(BAD)?);
    key.0.verify_strict(&message(digest)?, &signed).map_err(|_| TrustError::Forged)?;
    Ok(key)
}

/// The text of a signature file; none where there is no such file.
pub fn read_signature(path: &Path) -> Result<Option<String>, TrustError> {
    /// A real one has 223 bytes.
    const MAX: u64 = 4 << 10;
    let io = |error| TrustError::Io { path: path.to_owned(), error };
    let file = match std::fs::File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(io(error)),
    };
    let mut text = String::new();
    file.take(MAX).read_to_string(&mut text).map_err(io)?;
    Ok(Some(text))
}

impl SecretKey {
    /// A new one, from the operating system's randomness.
    pub fn generate() -> Self {
        let mut bytes = [0; 32];
        rand::Rng::fill_bytes(&mut rand::rng(), &mut bytes);
        Self(SigningKey::from_bytes(&bytes))
    }

    /// Its public half.
    pub fn public(&self) -> PublicKey {
        PublicKey(self.0.verifying_key())
    }

    /// The text of a signature file for the content with this digest (hex SHA-256).
    pub fn sign(&self, digest: &str) -> Result<String, TrustError> {
        let signed = hex(&self.0.sign(&message(digest)?).to_bytes());
        Ok(format!("{SIGNATURE} {} {signed}\n", self.public()))
    }

    /// Writes a key file; refuses to replace one.
    pub fn write(&self, path: &Path) -> Result<(), TrustError> {
        let io = |error| TrustError::Io { path: path.to_owned(), error };
        let mut options = std::fs::OpenOptions::new();
        let mut file = options.write(true).create_new(true).mode(0o600).open(path).map_err(io)?;
        writeln!(file, "{SECRET} {}", hex(&self.0.to_bytes())).map_err(io)
    }

    /// Reads a key file; refuses one that others can read.
    pub fn read(path: &Path) -> Result<Self, TrustError> {
        let io = |error| TrustError::Io { path: path.to_owned(), error };
        if std::fs::metadata(path).map_err(io)?.mode() & 0o077 != 0 {
            let problem = "others can read or write it; `chmod 600` it, or make a new key";
            return Err(io(std::io::Error::other(problem)));
        }
        let text = std::fs::read_to_string(path).map_err(io)?;
        let bytes = text.trim().strip_prefix(SECRET).and_then(|text| unhex::<32>(text.trim()));
        let bad = TrustError::Malformed("not a key file; make one with `flowkit plugin keygen`");
        Ok(Self(SigningKey::from_bytes(&bytes.ok_or(bad)?)))
    }
}

impl std::fmt::Display for PublicKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{PUBLIC}{}", hex(self.0.as_bytes()))
    }
}

impl From<PublicKey> for String {
    fn from(key: PublicKey) -> Self {
        key.to_string()
    }
}

impl TryFrom<String> for PublicKey {
    type Error = TrustError;

    fn try_from(text: String) -> Result<Self, TrustError> {
        text.parse()
    }
}

impl std::str::FromStr for PublicKey {
    type Err = TrustError;

    fn from_str(text: &str) -> Result<Self, TrustError> {
        let bytes = text.strip_prefix(PUBLIC).and_then(unhex::<32>);
        let key = bytes.and_then(|bytes| VerifyingKey::from_bytes(&bytes).ok());
        key.map(Self).ok_or(TrustError::Malformed(
            "not a public key: expected `ed25519:` and 64 hex digits, as `flowkit plugin keygen` \
             prints them",
        ))
    }
}

fn message(digest: &str) -> Result<Vec<u8>, TrustError> {
    let digest = unhex::<32>(digest).ok_or(TrustError::Malformed("a digest has 64 hex digits"))?;
    Ok([DOMAIN, &digest].concat())
}

fn unhex<const N: usize>(text: &str) -> Option<[u8; N]> {
    let digits = text.as_bytes();
    if digits.len() != 2 * N {
        return None;
    }
    let mut bytes = [0; N];
    for (byte, pair) in bytes.iter_mut().zip(digits.chunks_exact(2)) {
        let [high, low] = [pair[0], pair[1]].map(|digit| char::from(digit).to_digit(16));
        *byte = u8::try_from(high? * 16 + low?).ok()?;
    }
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_trusted_signature_over_this_content_counts() {
        let (own, strange) = (SecretKey::generate(), SecretKey::generate());
        let trust = Trust { keys: vec![own.public()], require_signed: true };
        let (digest, other) = ("ab".repeat(32), "cd".repeat(32));
        let file = Path::new("echo.wasm.sig");
        let signature = own.sign(&digest).expect("signs");
        let check = |digest: &str, text: Option<&str>| trust.check(digest, (file, text), false);
        check(&digest, Some(&signature)).expect("trusted");
        assert!(matches!(check(&other, Some(&signature)), Err(TrustError::Forged)));
        assert!(matches!(check(&digest, None), Err(TrustError::Unsigned(_))));
        assert!(matches!(check(&digest, Some("x")), Err(TrustError::Malformed(_))));
        let theirs = strange.sign(&digest).expect("signs");
        assert!(matches!(check(&digest, Some(&theirs)), Err(TrustError::Stranger(_))));
        let lenient = Trust::default();
        lenient.check(&digest, (file, None), false).expect("nothing is wanted");
        assert!(lenient.check(&digest, (file, None), true).is_err(), "a named one is wanted");
    }

    #[test]
    fn keys_survive_their_files_and_exposed_ones_are_refused() {
        use std::os::unix::fs::PermissionsExt;
        let dir = tempfile::tempdir().expect("a directory");
        let file = dir.path().join("key");
        let key = SecretKey::generate();
        key.write(&file).expect("written");
        assert!(key.write(&file).is_err(), "an existing key is not replaced");
        assert_eq!(SecretKey::read(&file).ok().map(|key| key.public()), Some(key.public()));
        assert_eq!(key.public().to_string().parse::<PublicKey>().ok(), Some(key.public()));
        std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o644)).expect("set");
        assert!(SecretKey::read(&file).is_err());
    }
}

//! `flowkit plugin keygen`, `sign` and `verify`: whose components may run.

use std::fs::Permissions;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Context;
use clap::Args;

use super::plugin_inspect::anatomy;
use super::replace::replace;
use super::{Shared, Usage, note, print};
use crate::config::{Config, Need};
use crate::plugin::{PublicKey, SecretKey, TrustError, read_signature, signature_file, verify};

/// `flowkit plugin keygen`.
#[derive(Debug, Args)]
#[command(after_help = "\
Writes a new secret key, readable for its owner alone, and prints its public key, which belongs\n\
into `plugins.trusted_keys` of the workers' configurations.\n\
\n\
Example:\n  \
  flowkit plugin keygen release.key")]
pub struct KeygenArgs {
    /// Where to; a file that is there is never overwritten
    #[arg(value_name = "KEYFILE")]
    file: PathBuf,
}

/// `flowkit plugin sign`.
#[derive(Debug, Args)]
#[command(after_help = "\
Writes the signature to FILE.wasm.sig, where workers look for it.\n\
\n\
Example:\n  \
  flowkit plugin sign plugins/echo.wasm --key release.key")]
pub struct SignArgs {
    /// The component
    #[arg(value_name = "FILE.wasm")]
    file: PathBuf,
    /// The secret key, as `flowkit plugin keygen` made it
    #[arg(long, value_name = "KEYFILE")]
    key: PathBuf,
}

/// `flowkit plugin verify`.
#[derive(Debug, Args)]
#[command(after_help = "\
Exits with 0 if one of the keys signed exactly this file, and with 1 otherwise.\n\
\n\
Examples:\n  \
  flowkit plugin verify plugins/echo.wasm --key ed25519:HEX\n  \
  flowkit plugin verify plugins/echo.wasm          with the configuration's keys")]
pub struct VerifyArgs {
    /// The component
    #[arg(value_name = "FILE.wasm")]
    file: PathBuf,
    /// A public key; may be given several times [default: `plugins.trusted_keys`]
    #[arg(long, value_name = "ed25519:HEX")]
    key: Vec<PublicKey>,
    /// The signature [default: FILE.wasm.sig]
    #[arg(long, value_name = "FILE")]
    signature: Option<PathBuf>,
}

/// Makes a key.
pub fn keygen(args: &KeygenArgs) -> anyhow::Result<ExitCode> {
    let key = SecretKey::generate();
    key.write(&args.file).map_err(|error| match error {
        TrustError::Io { path, error } if error.kind() == std::io::ErrorKind::AlreadyExists => {
            let shown = path.display();
            Usage(format!(
                "{shown} is there already, and a key is never overwritten: name another file"
            ))
        }
        other => Usage(format!("cannot write the key: {other}")),
    })?;
    note(format_args!("the secret key is in {}; keep it to yourself", args.file.display()));
    print(key.public())?;
    Ok(ExitCode::SUCCESS)
}

/// Signs a component.
pub async fn sign(args: &SignArgs) -> anyhow::Result<ExitCode> {
    let key = SecretKey::read(&args.key)
        .map_err(|error| Usage(format!("--key {}: {}", args.key.display(), bare(&error))))?;
    let found = anatomy(&args.file).await?;
    if let Some(problem) = &found.problem {
        return Err(Usage(format!("{}: {problem}", args.file.display())).into());
    }
    let target = signature_file(&args.file);
    replace(&target, &key.sign(&found.digest)?, Permissions::from_mode(0o644))
        .with_context(|| format!("writing {}", target.display()))?;
    print(format_args!(
        "{} is signed by {}: {}",
        args.file.display(),
        key.public(),
        target.display()
    ))?;
    Ok(ExitCode::SUCCESS)
}

/// Says whether a component is signed by one of the keys.
pub async fn verify_file(args: VerifyArgs, shared: &Shared) -> anyhow::Result<ExitCode> {
    let (keys, place) = match args.key {
        keys if !keys.is_empty() => (keys, "the keys of --key"),
        _ => {
            let policy = config(shared)?.plugins().trust();
            (policy.keys, "`plugins.trusted_keys`")
        }
    };
    if keys.is_empty() {
        let text = "there is no key to verify with: give one with --key, or name it in \
                    `plugins.trusted_keys` of the configuration";
        return Err(Usage(text.into()).into());
    }
    let found = anatomy(&args.file).await?;
    let (file, signed) =
        (args.file.display(), args.signature.unwrap_or_else(|| signature_file(&args.file)));
    let Some(text) = read_signature(&signed)? else {
        anyhow::bail!(
            "{file} is not signed: there is no {}; sign it with `flowkit plugin sign {file} --key \
             KEYFILE`",
            signed.display()
        );
    };
    let signer =
        verify(&found.digest, &text).map_err(|error| anyhow::anyhow!("{file}: {error}"))?;
    if !keys.contains(&signer) {
        anyhow::bail!("{file} is signed by {signer}, which is not among {place}");
    }
    print(format_args!("{file} is signed by {signer}"))?;
    Ok(ExitCode::SUCCESS)
}

fn config(shared: &Shared) -> anyhow::Result<Config> {
    let app = shared.app(Need::Database);
    let why = "no --key is given, so the keys are those of the configuration";
    Ok(app.context(why)?.config)
}

/// Without the file's name, where that was said before.
fn bare(error: &TrustError) -> String {
    match error {
        TrustError::Io { error, .. } => error.to_string(),
        other => other.to_string(),
    }
}

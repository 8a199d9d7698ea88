//! Files that others may be reading while they are written.

use std::fs::Permissions;
use std::io::Write;
use std::path::Path;

/// Writes a file whole or not at all, in the place of one that may be there. Blocks.
pub fn replace(target: &Path, text: &str, permissions: Permissions) -> std::io::Result<()> {
    let dir = target.parent().filter(|dir| !dir.as_os_str().is_empty());
    let mut file = tempfile::NamedTempFile::new_in(dir.unwrap_or(Path::new(".")))?;
    file.write_all(text.as_bytes())?;
    file.as_file().set_permissions(permissions)?;
    file.as_file().sync_all()?;
    file.persist(target)?;
    Ok(())
}

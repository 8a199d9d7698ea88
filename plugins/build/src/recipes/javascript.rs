//! JavaScript: jco joins the source to QuickJS.

use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;

use super::Recipe;
use crate::component::{WORLD, write_wit};
use crate::error::BuildError;
use crate::steps::{Tool, read_text, write};
use crate::tools::{npm_ci, npm_install};

const JCO: Tool = Tool {
    name: "Node.js 20 or later",
    install: "`apt-get install nodejs npm` installs it where Debian has 20 or later, \
              https://nodejs.org has it for all systems",
};

/// How the author's packages become one file with the handler: what the world offers is no
/// package.
const BUNDLE: &str = "\
export default {
  input: 'handler.js',
  external: /^(flowkit|wasi):/,
  platform: 'neutral',
  resolve: { mainFields: ['module', 'main'] },
  logLevel: 'warn',
};
";

impl Recipe<'_> {
    pub fn javascript(&self) -> Result<PathBuf, BuildError> {
        let tools = self.toolbox.npm()?;
        let (wit, component) = (self.work.join("wit"), self.work.join("js.wasm"));
        write_wit(&wit)?;
        let mut jco = Command::new(tools.join("jco"));
        // It looks for the file below the folder it is started in.
        jco.current_dir(self.bundle(&tools)?);
        jco.args(["componentize", "handler.js", "-n", WORLD]);
        jco.args(["--backend", "quickjs", "--backend-qjs-disable-async"]);
        JCO.run("`jco componentize`", jco.arg("--wit").arg(&wit).arg("-o").arg(&component))?;
        Ok(component)
    }

    /// The folder whose `handler.js` imports nothing but files beside it: the author's own,
    /// unless it has packages.
    fn bundle(&self, tools: &Path) -> Result<PathBuf, BuildError> {
        if !self.npm_dependencies()? {
            return Ok(self.source.to_owned());
        }
        let (config, bundle) = (self.work.join("rolldown.config.mjs"), self.work.join("bundle"));
        write(&config, BUNDLE)?;
        let mut rolldown = Command::new(tools.join("rolldown"));
        rolldown.current_dir(self.source).arg("--config").arg(&config);
        JCO.run("`rolldown`", rolldown.arg("--file").arg(bundle.join("handler.js")))?;
        Ok(bundle)
    }

    /// Installs the author's own packages, if there are any.
    fn npm_dependencies(&self) -> Result<bool, BuildError> {
        let manifest = self.source.join("package.json");
        if !manifest.exists() {
            return Ok(false);
        }
        let manifest: Value = serde_json::from_str(&read_text(&manifest)?).map_err(|error| {
            BuildError::NotAHandler {
                dir: self.source.to_owned(),
                reason: format!("package.json: {error}"),
            }
        })?;
        if manifest["dependencies"].as_object().is_none_or(|packages| packages.is_empty()) {
            return Ok(false);
        }
        if !self.source.join("node_modules").exists() {
            let locked = self.source.join("package-lock.json").exists();
            if locked { npm_ci(self.source)? } else { npm_install(self.source)? }
        }
        Ok(true)
    }
}

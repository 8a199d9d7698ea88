//! Python: componentize-py joins the source to CPython.

use std::path::PathBuf;
use std::process::Command;

use super::Recipe;
use crate::component::{WORLD, write_wit};
use crate::error::BuildError;
use crate::steps::{Tool, read_text};
use crate::tools::pip_install;

const COMPONENTIZE: Tool = Tool {
    name: "componentize-py",
    install: "remove the folder of FlowKit's tools, and it is installed again",
};

impl Recipe<'_> {
    pub fn python(&self) -> Result<PathBuf, BuildError> {
        let bin = self.toolbox.venv()?;
        let (wit, component) = (self.work.join("wit"), self.work.join("py.wasm"));
        write_wit(&wit)?;
        let mut componentize = Command::new(bin.join("componentize-py"));
        componentize.arg("-d").arg(&wit).args(["-w", WORLD, "componentize", "handler"]);
        componentize.arg("-p").arg(self.source).arg("-o").arg(&component);
        let wanted = self.source.join("requirements.txt");
        if wanted.exists() && has_requirements(&read_text(&wanted)?) {
            let packages = self.work.join("packages");
            pip_install(
                &bin,
                &["--target".as_ref(), packages.as_ref(), "-r".as_ref(), wanted.as_ref()],
            )?;
            componentize.arg("-p").arg(packages);
        }
        COMPONENTIZE.run("`componentize-py`", &mut componentize)?;
        Ok(component)
    }
}

fn has_requirements(text: &str) -> bool {
    text.lines().any(|line| !line.trim().is_empty() && !line.trim().starts_with('#'))
}

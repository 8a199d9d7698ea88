//! Every example plugin of this repository is a handler.

use std::path::Path;

use flowkit::handler::{CancelFlag, Handler as _};
use flowkit::plugin::HandlerConfig;

use super::support::{engine, request};

#[tokio::test]
async fn every_example_loads_and_says_who_it_is() {
    let plugins = Path::new(env!("CARGO_MANIFEST_DIR")).join("../plugins");
    let mut names = Vec::new();
    for entry in std::fs::read_dir(&plugins).expect("the examples") {
        let entry = entry.expect("readable");
        let name = entry.file_name().into_string().expect("a name");
        if !["build", "sdk"].contains(&name.as_str()) && entry.path().join("Cargo.toml").exists() {
            names.push(name);
        }
    }
    assert!(names.iter().any(|name| name == "echo"), "{names:?}");
    for name in names {
        let file = plugins.join(format!("{name}.wasm"));
        assert!(file.exists(), "{} is missing: run `cargo xtask plugins` first", file.display());
        let plugin = match engine().load(HandlerConfig::new(&file)).await {
            Ok(plugin) => plugin,
            Err(error) => panic!("{error}"),
        };
        assert_eq!(plugin.inspection().describe["name"], name);
        let mut session = plugin.open(request("n", &CancelFlag::default())).await.expect("opens");
        session.init().await.expect("init succeeds");
        session.cleanup().await.expect("cleanup succeeds");
    }
}

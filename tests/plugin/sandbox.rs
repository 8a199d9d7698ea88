//! A plugin gets nothing by default, and exactly what it is granted.

use std::path::Path;

use flowkit::handler::{CallError, CancelFlag, Handler as _, Handlers, OpenError};
use flowkit::plugin::{DirGrant, HandlerConfig, PluginConfig, Plugins};
use flowkit::types::Role;
use insta::assert_snapshot;

use super::support::{engine, guest_file, process, request, rogue, rogue_with};

async fn told(plugin: &flowkit::plugin::Plugin, deed: &str) -> String {
    match process(plugin, deed).await {
        Err(CallError::Handler(error)) => error.message,
        other => panic!("not told: {other:?}"),
    }
}

fn grant(host: &Path, write: bool) -> DirGrant {
    DirGrant { host: host.to_owned(), guest: "/data".to_owned(), write }
}

#[tokio::test]
async fn nothing_is_granted_by_default() {
    assert_eq!(told(&rogue().await, "escape").await, "nothing worked");
}

#[tokio::test]
async fn a_granted_directory_is_read_only_and_has_no_way_out() {
    let dir = tempfile::tempdir().expect("a directory");
    std::fs::write(dir.path().join("one.txt"), "1").expect("written");
    std::os::unix::fs::symlink("/etc", dir.path().join("link")).expect("linked");
    let plugin = rogue_with(|config| config.dirs.push(grant(dir.path(), false))).await;
    assert_eq!(told(&plugin, "list-data").await, "link, one.txt");
    assert_eq!(told(&plugin, "escape").await, "nothing worked");
    assert_eq!(told(&plugin, "write-data").await, "permission denied");
    assert!(!dir.path().join("new.txt").exists());
}

#[tokio::test]
async fn a_directory_granted_for_writing_can_be_written() {
    let dir = tempfile::tempdir().expect("a directory");
    let plugin = rogue_with(|config| config.dirs.push(grant(dir.path(), true))).await;
    assert_eq!(told(&plugin, "write-data").await, "written");
    assert_eq!(std::fs::read_to_string(dir.path().join("new.txt")).expect("there"), "x");
}

#[tokio::test]
async fn a_read_only_directory_cannot_be_changed_in_any_way() {
    let dir = tempfile::tempdir().expect("a directory");
    std::fs::write(dir.path().join("one.txt"), "1").expect("written");
    std::fs::create_dir(dir.path().join("sub")).expect("made");
    let plugin = rogue_with(|config| config.dirs.push(grant(dir.path(), false))).await;
    assert_eq!(told(&plugin, "vandalise").await, "nothing worked");
    assert_eq!(std::fs::read_to_string(dir.path().join("one.txt")).expect("there"), "1");
    assert_eq!(std::fs::read_dir(dir.path()).expect("there").count(), 2);
}

#[tokio::test]
async fn no_path_leads_out_of_a_writable_directory() {
    let outer = tempfile::tempdir().expect("a directory");
    let (secret, data) = (outer.path().join("secret"), outer.path().join("data"));
    std::fs::write(&secret, "hidden").expect("written");
    std::fs::create_dir_all(data.join("sub")).expect("made");
    std::fs::write(data.join("one.txt"), "1").expect("written");
    let link = |to: &Path, name: &str| std::os::unix::fs::symlink(to, data.join(name));
    link(&secret, "absolute").expect("linked");
    link(Path::new("../secret"), "relative").expect("linked");
    link(Path::new(".."), "dir").expect("linked");
    let plugin = rogue_with(|config| config.dirs.push(grant(&data, true))).await;
    assert_eq!(told(&plugin, "flee").await, "nothing worked");
    assert_eq!(std::fs::read_to_string(&secret).expect("there"), "hidden");
    assert!(data.join("one.txt").exists() && !outer.path().join("taken").exists());
}

#[tokio::test]
async fn a_directory_that_was_replaced_after_the_load_is_not_given() {
    let outer = tempfile::tempdir().expect("a directory");
    let data = outer.path().join("data");
    let granted = data.join("sub");
    std::fs::create_dir_all(&granted).expect("made");
    std::fs::write(granted.join("passwd"), "harmless").expect("written");
    let plugin = rogue_with(|config| {
        config.dirs.push(DirGrant {
            host: granted.clone(),
            guest: "/data/sub".into(),
            write: false,
        });
    })
    .await;
    assert_eq!(told(&plugin, "read-link").await, "harmless");
    std::fs::rename(&granted, data.join("moved")).expect("moved");
    std::os::unix::fs::symlink("/etc", &granted).expect("linked");
    let refused = plugin.open(request("none", &CancelFlag::default())).await.err();
    let Some(OpenError::Fault(fault)) = refused else { panic!("not refused: {refused:?}") };
    assert!(fault.message.contains("it was replaced since the load"), "{fault}");
    std::fs::remove_file(&granted).expect("removed");
    std::fs::rename(data.join("moved"), &granted).expect("moved back");
    assert_eq!(told(&plugin, "read-link").await, "harmless", "the same directory again");
}

#[tokio::test]
async fn a_missing_directory_is_an_error_at_load() {
    let role = Role::new("rogue").expect("valid");
    let mut handler = HandlerConfig::new(guest_file("rogue"));
    handler.dirs.push(grant(Path::new("/nowhere/at/all"), false));
    let missing = HandlerConfig::new("/nowhere/handler.wasm");
    let configs = vec![
        PluginConfig { role: role.clone(), handler },
        PluginConfig { role: Role::new("lost").expect("valid"), handler: missing },
    ];
    let errors = Plugins::load(&engine(), configs).await.expect_err("both fail");
    let told: Vec<String> = errors.iter().map(ToString::to_string).collect();
    assert_snapshot!(told.join("\n"), @r"
    handlers.rogue: the granted directory /nowhere/at/all (`/data` for the handler): No such file or directory (os error 2)
    handlers.lost: cannot read /nowhere/handler.wasm: No such file or directory (os error 2); build the handler first, or correct the path
    ");
}

#[tokio::test]
async fn plugins_serve_their_roles() {
    let configs = ["b", "a"].map(|role| PluginConfig {
        role: Role::new(role).expect("valid"),
        handler: HandlerConfig::new(guest_file("rogue")),
    });
    let plugins = Plugins::load(&engine(), configs.to_vec()).await.expect("loads");
    let roles: Vec<String> = plugins.roles().iter().map(ToString::to_string).collect();
    assert_eq!(roles, ["a", "b"]);
    let flag = CancelFlag::default();
    let (known, unknown) = (Role::new("a").expect("valid"), Role::new("rogue").expect("valid"));
    let refused = plugins.choose(&unknown, None).await.err().expect("no such role");
    assert_eq!(refused, OpenError::NoHandler(unknown));
    let handler = plugins.choose(&known, None).await.expect("served");
    handler.open(request("none", &flag)).await.expect("opens").init().await.expect("runs");
}

//! Variables: those that are granted, and no other.

use flowkit::plugin::{EnvValue, HandlerConfig};
use serde_json::json;

use super::support::{act, caller_with, engine, guest_file};

#[tokio::test]
async fn a_handler_sees_the_variables_it_is_granted() {
    let plugin = caller_with(|config| {
        config.env.insert("REGION".into(), EnvValue::Plain("north".into()));
        config.env.insert("SEARCHED".into(), EnvValue::From("PATH".into()));
    })
    .await;
    let seen = act(&plugin, json!("env")).await.expect("tells");
    let path = std::env::var("PATH").expect("every process has one");
    assert_eq!(seen, json!({"REGION": "north", "SEARCHED": path}));
}

#[tokio::test]
async fn a_variable_that_is_not_there_is_an_error_at_load() {
    let mut config = HandlerConfig::new(guest_file("rogue"));
    config.env.insert("TOKEN".into(), EnvValue::From("FLOWKIT_NO_SUCH_VARIABLE".into()));
    let refused = engine().load(config).await.expect_err("not set");
    insta::assert_snapshot!(refused, @"the granted variable TOKEN: the worker's environment has no variable FLOWKIT_NO_SUCH_VARIABLE; set it, or take the grant out");
}

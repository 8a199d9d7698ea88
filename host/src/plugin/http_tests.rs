use std::io;
use std::net::IpAddr;
use std::sync::Mutex;

use async_trait::async_trait;
use tokio::net::TcpListener;
use tokio_rustls::rustls::RootCertStore;

use super::*;
use crate::plugin::counts::Counts;
use crate::plugin::http_client::Resolve;
use crate::types::Role;

/// Gives each look-up the next of its answers, as a name server that changes its mind.
struct Changing(Mutex<Vec<Vec<&'static str>>>);

#[async_trait]
impl Resolve for Changing {
    async fn resolve(&self, _: &str, port: u16) -> io::Result<Vec<SocketAddr>> {
        let answer = self.0.lock().expect("one at a time").remove(0);
        let address = |text: &str| SocketAddr::new(text.parse::<IpAddr>().expect("valid"), port);
        Ok(answer.into_iter().map(address).collect())
    }
}

fn rules(granted: &[&str], answers: &[&[&'static str]], counts: &Counts) -> Rules {
    let answers = answers.iter().map(|answer| answer.to_vec()).collect();
    let tally = counts.tally(Some(&Role::new("r").expect("valid")));
    Rules {
        client: Arc::new(Client::new(
            Box::new(Changing(Mutex::new(answers))),
            RootCertStore::empty(),
        )),
        granted: granted.iter().map(|text| text.parse().expect(text)).collect(),
        time: Duration::from_secs(10),
        body: 1_000,
        output: Output::new(None, 0, tally.clone()),
        tally,
    }
}

fn plain(host: &str, port: u16) -> Target {
    Target { tls: false, host: host.to_owned(), port }
}

#[tokio::test]
async fn an_allowed_name_that_leads_to_a_private_address_is_refused() {
    let counts = Counts::default();
    for address in [
        "127.0.0.1",
        "10.0.0.1",
        "169.254.169.254",
        "::1",
        "::ffff:127.0.0.1",
        "fd00::1",
        "64:ff9b::7f00:1",
        "0.0.0.0",
        "224.0.0.1",
    ] {
        let rules = rules(&["api.example.com"], &[&[address]], &counts);
        let refused = rules.connect(&plain("api.example.com", 80)).await.err();
        assert!(matches!(refused, Some(Error::DestinationIpProhibited)), "{address}: {refused:?}");
    }
    assert_eq!(counts.snapshot()[&Role::new("r").expect("valid")]["http_refused"], 9);
}

#[tokio::test]
async fn the_connection_goes_to_an_address_that_was_checked() {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let port = listener.local_addr().expect("bound").port();
    let counts = Counts::default();
    // The first address is private and not listed; the second is listed. A second look-up
    // would lead elsewhere, and there is none.
    let (name, listed) = (format!("api.example.com:{port}"), "127.0.0.1");
    let rules = rules(&[&name, listed], &[&["10.9.9.9", "127.0.0.1"]], &counts);
    rules.connect(&plain("api.example.com", port)).await.map(drop).expect("connects");
    let (_, from) = listener.accept().await.expect("a connection");
    assert!(from.ip().is_loopback());
}

#[test]
fn a_target_is_a_plain_host_and_port() {
    let found = |uri: &str| target(&uri.parse().expect(uri)).map(|t| (t.tls, t.to_string()));
    let some = |tls, text: &str| Some((tls, text.to_owned()));
    assert_eq!(found("https://API.Example.com./x"), some(true, "api.example.com:443"));
    assert_eq!(found("http://a"), some(false, "a:80"));
    assert_eq!(found("http://[::1]:81/"), some(false, "[::1]:81"));
    assert_eq!(found("http://u:p@a/"), None);
    assert_eq!(found("/path"), None);
}

//! Which hosts a handler may send requests to.

use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use super::addresses::{self, Network};

/// One entry of `handlers.ROLE.http`: `api.example.com`, `localhost:8080`,
/// `*.example.com`, `10.1.0.0/16`, `[::1]:8080`. Without a port it is 443 over https and 80
/// over http.
///
/// A name that is listed may resolve to public addresses alone, unless an entry for an
/// address or a network says that what it resolves to is meant as well (without a port:
/// for any).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct HttpGrant {
    host: Host,
    port: Option<u16>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Host {
    Name(String),
    /// Every name that ends with it: `.example.com`.
    Below(String),
    Network(Network),
}

/// Where a request goes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Target {
    pub tls: bool,
    /// In lower case, without a final dot, and without an IPv6 address's brackets.
    pub host: String,
    pub port: u16,
}

impl Target {
    /// The address, where the host is one.
    pub fn address(&self) -> Option<IpAddr> {
        self.host.parse().ok()
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { host, port, .. } = self;
        if host.contains(':') { write!(f, "[{host}]:{port}") } else { write!(f, "{host}:{port}") }
    }
}

/// Whether a request to `target` is granted.
pub(super) fn permits(grants: &[HttpGrant], target: &Target) -> bool {
    let usual = if target.tls { 443 } else { 80 };
    grants
        .iter()
        .filter(|grant| grant.port.unwrap_or(usual) == target.port)
        .any(|grant| grant.host.names(target))
}

/// Whether a name that is granted may lead to `address`.
pub(super) fn may_reach(grants: &[HttpGrant], address: IpAddr, port: u16) -> bool {
    addresses::public(address)
        || grants.iter().any(|grant| match grant.host {
            Host::Network(network) => {
                network.contains(address) && grant.port.is_none_or(|granted| granted == port)
            }
            _ => false,
        })
}

impl Host {
    fn names(&self, target: &Target) -> bool {
        match self {
            Self::Name(name) => *name == target.host,
            Self::Below(end) => is_name(&target.host) && target.host.ends_with(end),
            Self::Network(network) => target.address().is_some_and(|a| network.contains(a)),
        }
    }
}

impl FromStr for HttpGrant {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = |why: &str| {
            format!(
                "{text:?} {why}; write a host such as \"api.example.com\", \"localhost:8080\", \
                 \"*.example.com\", \"10.1.0.0/16\" or \"[::1]:8080\""
            )
        };
        if text.contains("://") || text.contains('@') {
            return Err(wrong("is more than a host and a port"));
        }
        if let Ok(network) = text.parse() {
            return Ok(Self { host: Host::Network(network), port: None });
        }
        let (host, port) = match text.rsplit_once(':') {
            None => (text, None),
            Some((host, port)) => match port.parse::<u16>() {
                Ok(port) if port > 0 => (host, Some(port)),
                _ => return Err(wrong("has a port that is no number from 1 to 65535")),
            },
        };
        let bare = host.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).unwrap_or(host);
        if let Ok(network) = bare.parse() {
            return Ok(Self { host: Host::Network(network), port });
        }
        let lower = host.to_ascii_lowercase();
        let host = match lower.strip_prefix('*') {
            Some(end) if end.starts_with('.') && is_name(&end[1..]) => Host::Below(end.to_owned()),
            None if is_name(&lower) => Host::Name(lower),
            _ => return Err(wrong("is no host")),
        };
        Ok(Self { host, port })
    }
}

/// Labels of letters, digits, hyphens and underscores. One that looks like a number is an
/// address in some notation (`127.1`, `0x7f000001`), which only resolvers understand.
fn is_name(text: &str) -> bool {
    let label = |label: &str| {
        (1..=63).contains(&label.len())
            && label.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_'))
    };
    let last = text.rsplit('.').next().unwrap_or_default();
    text.len() <= 253
        && text.split('.').all(label)
        && !last.starts_with(|c: char| c.is_ascii_digit())
}

impl TryFrom<String> for HttpGrant {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        text.parse()
    }
}

impl From<HttpGrant> for String {
    fn from(grant: HttpGrant) -> Self {
        grant.to_string()
    }
}

impl fmt::Display for HttpGrant {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (&self.host, self.port) {
            (Host::Name(name), _) => f.write_str(name)?,
            (Host::Below(end), _) => write!(f, "*{end}")?,
            (Host::Network(network), Some(_)) if network.to_string().contains(':') => {
                write!(f, "[{network}]")?;
            }
            (Host::Network(network), _) => network.fmt(f)?,
        }
        self.port.map_or(Ok(()), |port| write!(f, ":{port}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn grants(texts: &[&str]) -> Vec<HttpGrant> {
        texts.iter().map(|text| text.parse().expect(text)).collect()
    }

    fn target(tls: bool, host: &str, port: u16) -> Target {
        Target { tls, host: host.to_owned(), port }
    }

    #[test]
    fn a_host_is_granted_with_its_port() {
        let granted = grants(&[
            "api.example.com",
            "localhost:8080",
            "*.example.org:8443",
            "[::1]:81",
            "10.0.0.0/8",
        ]);
        for (tls, host, port, wanted) in [
            (true, "api.example.com", 443, true),
            (false, "api.example.com", 80, true),
            (true, "api.example.com", 80, false),
            (true, "api.example.com", 8443, false),
            (true, "example.com", 443, false),
            (true, "x.api.example.com", 443, false),
            (true, "evilapi.example.com", 443, false),
            (false, "localhost", 8080, true),
            (true, "localhost", 8080, true),
            (false, "localhost", 80, false),
            (true, "a.b.example.org", 8443, true),
            (true, "example.org", 8443, false),
            (true, "notexample.org", 8443, false),
            (false, "::1", 81, true),
            (false, "::1", 80, false),
            (false, "10.9.8.7", 80, true),
            (false, "11.9.8.7", 80, false),
        ] {
            assert_eq!(permits(&granted, &target(tls, host, port)), wanted, "{host}:{port}");
        }
    }

    #[test]
    fn a_private_address_must_be_listed_itself() {
        let ip = |text: &str| text.parse::<IpAddr>().expect(text);
        let granted =
            grants(&["localhost:8080", "db.internal:9200", "10.1.0.0/16", "127.0.0.1:8080"]);
        assert!(may_reach(&granted, ip("1.1.1.1"), 443));
        assert!(may_reach(&granted, ip("10.1.2.3"), 9200), "a network without a port: any");
        assert!(!may_reach(&granted, ip("10.2.2.3"), 9200));
        assert!(may_reach(&granted, ip("127.0.0.1"), 8080));
        assert!(may_reach(&granted, ip("::ffff:127.0.0.1"), 8080));
        assert!(!may_reach(&granted, ip("127.0.0.1"), 8081));
        assert!(!may_reach(&granted, ip("169.254.169.254"), 80));
        assert!(!may_reach(&grants(&["localhost:8080"]), ip("127.0.0.1"), 8080));
    }

    #[test]
    fn grants_are_written_as_they_are_read() {
        for text in
            ["api.example.com", "localhost:8080", "*.example.com", "10.1.0.0/16", "[::1]:80", "::1"]
        {
            assert_eq!(text.parse::<HttpGrant>().expect(text).to_string(), text);
        }
        assert_eq!(
            "API.Example.COM".parse::<HttpGrant>().expect("a name").to_string(),
            "api.example.com"
        );
        for text in [
            "",
            "*",
            "*.",
            "*example.com",
            "a b",
            "http://a",
            "u@a",
            "a:0",
            "a:b",
            "a:70000",
            "a..b",
            "127.1",
            "2130706433",
            "0x7f000001.1",
            "a/b",
            "10.0.0.0/99",
        ] {
            assert!(text.parse::<HttpGrant>().is_err(), "{text}");
        }
    }
}

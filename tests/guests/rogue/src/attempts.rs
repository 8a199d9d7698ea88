//! What a handler was not granted, tried; what worked is named.

use std::fs;
use std::net::{TcpListener, TcpStream, ToSocketAddrs, UdpSocket};

/// All of it.
pub fn escape() -> String {
    let mut worked = Vec::new();
    for path in ["/", ".", "..", "/etc/passwd", "/data/../../etc/passwd", "/data/link"] {
        note(&mut worked, path, fs::metadata(path));
    }
    worked.extend(network_ways());
    worked.extend(std::env::vars().map(|(name, _)| format!("env {name}")));
    worked.extend(std::env::args().map(|arg| format!("arg {arg}")));
    told(&worked)
}

/// Every way to reach the network.
pub fn network() -> String {
    told(&network_ways())
}

fn network_ways() -> Vec<String> {
    let mut worked = Vec::new();
    for address in ["127.0.0.1:80", "[::1]:80", "1.1.1.1:53", "169.254.169.254:80"] {
        note(&mut worked, "tcp", TcpStream::connect(address));
    }
    note(&mut worked, "listen", TcpListener::bind("127.0.0.1:0"));
    note(&mut worked, "udp", UdpSocket::bind("127.0.0.1:0"));
    for name in ["localhost:80", "example.com:80"] {
        note(&mut worked, "dns", name.to_socket_addrs());
    }
    worked
}

/// What is seen of the process.
pub fn environment() -> String {
    let variables = std::env::vars().map(|(name, value)| format!("{name}={value}"));
    let arguments = std::env::args().map(|arg| format!("arg {arg}"));
    let here = std::env::current_dir().map(|dir| format!("in {}", dir.display()));
    told(
        &variables
            .chain(arguments)
            .chain(here.ok().filter(|dir| dir != "in /"))
            .collect::<Vec<_>>(),
    )
}

/// Every way to change a directory that may only be read.
pub fn vandalise(dir: &str) -> String {
    let (one, new) = (format!("{dir}/one.txt"), format!("{dir}/new"));
    let mut worked = Vec::new();
    note(&mut worked, "write", fs::write(&new, "x"));
    note(&mut worked, "overwrite", fs::write(&one, "x"));
    note(&mut worked, "append", fs::OpenOptions::new().append(true).open(&one));
    note(&mut worked, "truncate", fs::OpenOptions::new().write(true).truncate(true).open(&one));
    note(&mut worked, "rename", fs::rename(&one, &new));
    note(&mut worked, "remove", fs::remove_file(&one));
    note(&mut worked, "link", fs::hard_link(&one, &new));
    note(&mut worked, "mkdir", fs::create_dir(&new));
    note(&mut worked, "rmdir", fs::remove_dir(format!("{dir}/sub")));
    told(&worked)
}

/// Every way out of a directory that may be written.
pub fn flee(dir: &str) -> String {
    let mut worked = Vec::new();
    for path in [
        format!("{dir}/.."),
        format!("{dir}/../secret"),
        format!("{dir}/sub/../../secret"),
        format!("{dir}//../secret"),
        format!("{dir}/absolute"),
        format!("{dir}/relative"),
        format!("{dir}/dir/secret"),
        "/proc/self/environ".to_owned(),
        "/secret".to_owned(),
    ] {
        note(&mut worked, &path, fs::read(&path));
        note(&mut worked, &path, fs::read_dir(&path));
        note(&mut worked, &path, fs::write(&path, "x"));
    }
    note(&mut worked, "rename", fs::rename(format!("{dir}/one.txt"), format!("{dir}/../taken")));
    note(
        &mut worked,
        "hard link",
        fs::hard_link(format!("{dir}/../secret"), format!("{dir}/hard")),
    );
    note(&mut worked, "rename in", fs::rename(format!("{dir}/../secret"), format!("{dir}/taken")));
    told(&worked)
}

/// A file's first line, or why not.
pub fn read(path: &str) -> String {
    match fs::read_to_string(path) {
        Ok(text) => text.lines().next().unwrap_or_default().to_owned(),
        Err(error) => error.kind().to_string(),
    }
}

fn note<T, E>(worked: &mut Vec<String>, what: &str, result: Result<T, E>) {
    if result.is_ok() {
        worked.push(what.to_owned());
    }
}

fn told(worked: &[String]) -> String {
    if worked.is_empty() { "nothing worked".to_owned() } else { worked.join(", ") }
}

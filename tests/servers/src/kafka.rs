//! An Apache Kafka broker: one node that is its own controller.

use std::fs;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::process::{Process, data_folder, free_port};

const HEAP_MB: u32 = 512;

/// Any valid one will do.
const CLUSTER: &str = "Zmxvd2tpdC10ZXN0cy0wMQ";

/// What a broker should be like.
#[derive(Debug, Clone, Default)]
pub struct KafkaOptions {
    /// Broker properties beside the starter's own.
    pub properties: Vec<(String, String)>,
    /// A second listener with TLS and a password.
    pub sasl_ssl: bool,
}

/// A broker with no topics, gone when it is dropped.
pub struct Kafka {
    process: Option<Process>,
    port: u16,
    secure: Option<Secure>,
    folder: tempfile::TempDir,
}

/// The listener that wants a user and a password (mechanism PLAIN), over TLS.
#[derive(Debug, Clone)]
pub struct Secure {
    /// `host:port`.
    pub bootstrap: String,
    /// The certificate of the authority that signed the broker's, a PEM file.
    pub ca: PathBuf,
    /// Who may come in.
    pub user: &'static str,
    /// With what.
    pub password: &'static str,
}

impl Kafka {
    /// Starts one on free ports.
    pub fn start(options: &KafkaOptions) -> anyhow::Result<Self> {
        let (port, controller, folder) = (free_port()?, free_port()?, data_folder()?);
        let secure = options.sasl_ssl.then(|| Secure::prepare(folder.path())).transpose()?;
        let mut properties = properties(port, controller, folder.path());
        if let Some(secure) = &secure {
            properties.push_str(&secure.properties(folder.path(), port, controller));
        }
        for (name, value) in &options.properties {
            properties.push_str(&format!("{name}={value}\n"));
        }
        fs::write(folder.path().join("server.properties"), properties)?;
        let mut broker = Self { process: None, port, secure, folder };
        broker.restart()?;
        Ok(broker)
    }

    /// Its address, `host:port`.
    pub fn bootstrap(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    /// The listener with TLS, if it was asked for.
    pub fn secure(&self) -> Option<&Secure> {
        self.secure.as_ref()
    }

    /// Stops it in the middle of whatever it does; it answers nothing.
    pub fn pause(&self) -> anyhow::Result<()> {
        self.process.as_ref().map_or(Ok(()), Process::pause)
    }

    /// Lets it go on.
    pub fn resume(&self) -> anyhow::Result<()> {
        self.process.as_ref().map_or(Ok(()), |process| process.signal("CONT"))
    }

    /// Ends it, keeping its data and its ports.
    pub fn stop(&mut self) -> anyhow::Result<()> {
        self.process.take().map_or(Ok(()), Process::stop)
    }

    /// Starts it again with the same data on the same ports.
    pub fn restart(&mut self) -> anyhow::Result<()> {
        let properties = self.folder.path().join("server.properties");
        let arguments = ["kafka", &properties.to_string_lossy(), CLUSTER];
        let answers = || knows_a_broker(self.port).unwrap_or(false);
        self.process = Some(Process::start(self.folder.path(), HEAP_MB, &arguments, answers)?);
        Ok(())
    }
}

fn properties(port: u16, controller: u16, folder: &Path) -> String {
    let mut text = format!(
        "process.roles=broker,controller
node.id=1
controller.quorum.voters=1@127.0.0.1:{controller}
listeners=PLAINTEXT://127.0.0.1:{port},CONTROLLER://127.0.0.1:{controller}
advertised.listeners=PLAINTEXT://127.0.0.1:{port}
controller.listener.names=CONTROLLER
inter.broker.listener.name=PLAINTEXT
listener.security.protocol.map=PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT,SECURE:SASL_SSL
log.dirs={}
num.partitions=4
group.initial.rebalance.delay.ms=0
group.min.session.timeout.ms=1000
",
        folder.join("data").display()
    );
    for topic in ["offsets.topic", "transaction.state.log", "share.coordinator.state.topic"] {
        text.push_str(&format!("{topic}.replication.factor=1\n"));
    }
    text.push_str("offsets.topic.num.partitions=4\n");
    for topic in ["transaction.state.log", "share.coordinator.state.topic"] {
        text.push_str(&format!("{topic}.min.isr=1\n"));
    }
    text
}

impl Secure {
    /// Makes an authority and the broker's certificate.
    fn prepare(folder: &Path) -> anyhow::Result<Self> {
        use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
        let mut authority = CertificateParams::new(vec![])?;
        authority.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        authority.distinguished_name.push(rcgen::DnType::CommonName, "tests' authority");
        let authority_key = KeyPair::generate()?;
        let certificate = authority.self_signed(&authority_key)?;
        let ca = folder.join("ca.pem");
        fs::write(&ca, certificate.pem())?;
        let issuer = Issuer::new(authority, authority_key);
        let key = KeyPair::generate()?;
        let names = vec!["127.0.0.1".to_owned(), "localhost".to_owned()];
        let own = CertificateParams::new(names)?.signed_by(&key, &issuer)?;
        fs::write(folder.join("broker.pem"), format!("{}{}", key.serialize_pem(), own.pem()))?;
        let bootstrap = format!("127.0.0.1:{}", free_port()?);
        Ok(Self { bootstrap, ca, user: "worker", password: "swordfish" })
    }

    /// Later lines win over the earlier ones of the same name.
    fn properties(&self, folder: &Path, port: u16, controller: u16) -> String {
        let (bootstrap, user, password) = (&self.bootstrap, self.user, self.password);
        format!(
            "listeners=PLAINTEXT://127.0.0.1:{port},CONTROLLER://127.0.0.1:{controller},SECURE://{bootstrap}
advertised.listeners=PLAINTEXT://127.0.0.1:{port},SECURE://{bootstrap}
sasl.enabled.mechanisms=PLAIN
listener.name.secure.plain.sasl.jaas.config=org.apache.kafka.common.security.plain.PlainLoginModule required user_{user}=\"{password}\";
ssl.keystore.type=PEM
ssl.keystore.location={}
",
            folder.join("broker.pem").display()
        )
    }
}

/// Whether the broker names at least one broker when asked for the cluster: before that it
/// refuses everything else. The request is Metadata, version 1, without topics.
fn knows_a_broker(port: u16) -> std::io::Result<bool> {
    let mut stream = TcpStream::connect(("127.0.0.1", port))?;
    stream.set_read_timeout(Some(Duration::from_secs(2)))?;
    let mut request = vec![0, 3, 0, 1, 0, 0, 0, 7, 0xff, 0xff];
    request.extend(0_i32.to_be_bytes());
    stream.write_all(&u32::try_from(request.len()).unwrap_or(0).to_be_bytes())?;
    stream.write_all(&request)?;
    // Length, correlation id, number of brokers.
    let mut answer = [0; 12];
    stream.read_exact(&mut answer)?;
    Ok(answer[8..] != [0; 4] && answer[4..8] == [0, 0, 0, 7])
}

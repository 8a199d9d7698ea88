//! A MongoDB-wire server: mongo-java-server over an H2 file.

use std::net::TcpStream;

use crate::process::{Process, data_folder, free_port};

const HEAP_MB: u32 = 320;

/// A server with a fresh database, gone when it is dropped.
pub struct Mongo {
    process: Option<Process>,
    port: u16,
    folder: tempfile::TempDir,
}

impl Mongo {
    /// Starts one on a free port.
    pub fn start() -> anyhow::Result<Self> {
        let mut server = Self { process: None, port: free_port()?, folder: data_folder()? };
        server.restart()?;
        Ok(server)
    }

    /// Its address, `mongodb://HOST:PORT`.
    pub fn uri(&self) -> String {
        format!("mongodb://127.0.0.1:{}", self.port)
    }

    /// Stops it in the middle of whatever it does; it answers nothing.
    pub fn pause(&self) -> anyhow::Result<()> {
        self.process.as_ref().map_or(Ok(()), Process::pause)
    }

    /// Lets it go on.
    pub fn resume(&self) -> anyhow::Result<()> {
        self.process.as_ref().map_or(Ok(()), |process| process.signal("CONT"))
    }

    /// Ends it, keeping its data and its port.
    pub fn stop(&mut self) -> anyhow::Result<()> {
        self.process.take().map_or(Ok(()), Process::stop)
    }

    /// Starts it again with the same data on the same port.
    pub fn restart(&mut self) -> anyhow::Result<()> {
        let (port, file) = (self.port.to_string(), self.folder.path().join("mongo.h2"));
        let arguments = ["mongo", &port, &file.to_string_lossy()];
        let answers = || TcpStream::connect(("127.0.0.1", self.port)).is_ok();
        self.process = Some(Process::start(self.folder.path(), HEAP_MB, &arguments, answers)?);
        Ok(())
    }
}

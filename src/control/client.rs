//! The asking end: blocking, for commands.

use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use super::protocol::{Line, Reply, Request};
use super::{path_of, short};

/// How long an answer may take.
const PATIENCE: Duration = Duration::from_secs(30);

/// Why a running `serve` could not be asked.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// The connection broke.
    #[error("the running executor did not answer")]
    Io(#[from] std::io::Error),
    /// It answered something else.
    #[error(
        "the running executor answered what this command does not understand; are both of one version?"
    )]
    Form(#[from] serde_json::Error),
    /// It said no.
    #[error("{0}")]
    Refused(String),
}

/// A connection to a running `serve`.
#[derive(Debug)]
pub struct Client {
    stream: BufReader<UnixStream>,
}

impl Client {
    /// Connects; `None`: none is running over this ledger.
    pub fn connect(ledger: &Path) -> Option<Self> {
        let (path, _dir) = short(&path_of(ledger)).ok()?;
        let stream = UnixStream::connect(path).ok()?;
        stream.set_read_timeout(Some(PATIENCE)).ok()?;
        Some(Self { stream: BufReader::new(stream) })
    }

    /// One question, one answer.
    pub fn ask(mut self, request: &Request) -> Result<Reply, ClientError> {
        self.send(request)?;
        match self.receive()? {
            Some(Reply::Failed(why)) => Err(ClientError::Refused(why)),
            Some(reply) => Ok(reply),
            None => Err(std::io::Error::from(std::io::ErrorKind::UnexpectedEof).into()),
        }
    }

    /// The output of a job from now on. [`Client::line`] takes it line by line.
    pub fn follow(mut self, id: &str) -> Result<Self, ClientError> {
        self.send(&Request::Follow { id: id.to_owned() })?;
        self.stream.get_ref().set_read_timeout(Some(Duration::from_millis(200)))?;
        Ok(self)
    }

    /// The next line; `None`: none has come for a fifth of a second.
    pub fn line(&mut self) -> Result<Option<Line>, ClientError> {
        match self.receive() {
            Ok(Some(Reply::Line(line))) => Ok(Some(line)),
            Ok(None) => Err(std::io::Error::from(std::io::ErrorKind::UnexpectedEof).into()),
            Ok(Some(_)) => Ok(None),
            Err(ClientError::Io(error)) if error.kind() == std::io::ErrorKind::WouldBlock => {
                Ok(None)
            }
            Err(error) => Err(error),
        }
    }

    fn send(&mut self, request: &Request) -> Result<(), ClientError> {
        let mut text = serde_json::to_string(request)?;
        text.push('\n');
        Ok(self.stream.get_mut().write_all(text.as_bytes())?)
    }

    fn receive(&mut self) -> Result<Option<Reply>, ClientError> {
        let mut text = String::new();
        if self.stream.read_line(&mut text)? == 0 {
            return Ok(None);
        }
        Ok(Some(serde_json::from_str(&text)?))
    }
}

//! The answering end, in the daemon.

use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::Semaphore;

use super::protocol::{
    CancelReply, Line, MAX_REQUEST_BYTES, Reply, Request, RetryReply, SubmitReply,
};
use super::{path_of, short};
use crate::config::SettingLine;
use crate::dispatcher::Handle;
use crate::doors::intake::{self, Intake};
use crate::experiments::tools::ToolTable;
use crate::job::{JobId, Source};
use crate::ledger::{Cancelled, Ledger, LedgerError, Retried};
use crate::log::Tap;

/// How long a request may take to come.
const PATIENCE: Duration = Duration::from_secs(10);
/// Connections at one time; more wait.
const CONNECTIONS: usize = 64;

/// What requests are handed on to.
#[derive(Debug)]
pub struct Services {
    /// The record.
    pub ledger: Ledger,
    /// Whoever stops running attempts.
    pub dispatcher: Handle,
    /// How payloads are read.
    pub intake: Intake,
    /// Live output.
    pub tap: Tap,
    /// The settings in force.
    pub settings: Vec<SettingLine>,
}

/// Binds the socket beside the ledger, readable by its owner alone, and serves it. The caller holds
/// the ledger's lock: a socket that is there is left from a past life.
pub fn serve(ledger: &Path, services: Services) -> io::Result<impl Future<Output = ()> + use<>> {
    let path = path_of(ledger);
    let (short, dir) = short(&path)?;
    match std::fs::remove_file(&path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let listener = UnixListener::bind(&short)?;
    drop(dir);
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600))?;
    Ok(accept(listener, Arc::new(services)))
}

async fn accept(listener: UnixListener, services: Arc<Services>) {
    let places = Arc::new(Semaphore::new(CONNECTIONS));
    loop {
        let Ok(place) = Arc::clone(&places).acquire_owned().await else { return };
        let Ok((stream, _)) = listener.accept().await else {
            tokio::time::sleep(Duration::from_millis(100)).await;
            continue;
        };
        let services = Arc::clone(&services);
        tokio::spawn(async move {
            // Whoever asked may go away at any time.
            let _ = answer(stream, &services).await;
            drop(place);
        });
    }
}

async fn answer(stream: UnixStream, services: &Services) -> io::Result<()> {
    let (read, mut write) = stream.into_split();
    let mut text = String::new();
    let mut reader = BufReader::new(read.take(MAX_REQUEST_BYTES));
    tokio::time::timeout(PATIENCE, reader.read_line(&mut text)).await??;
    let reply = match serde_json::from_str(&text) {
        Err(error) => Reply::Failed(format!("the request is not understood: {error}")),
        Ok(Request::Follow { id }) => return follow(&id, services, reader, write).await,
        Ok(request) => act(request, services).await,
    };
    write.write_all(line_of(&reply).as_bytes()).await
}

fn line_of(reply: &Reply) -> String {
    let mut text = serde_json::to_string(reply).unwrap_or_default();
    text.push('\n');
    text
}

async fn act(request: Request, services: &Services) -> Reply {
    let done = match request {
        Request::Submit { payload } => submit(&payload, services).await,
        Request::Cancel { id } => match JobId::new(&id) {
            None => Ok(Reply::Cancel(CancelReply::Unknown)),
            Some(id) => services.dispatcher.cancel(id).await.map(|found| {
                Reply::Cancel(match found {
                    Cancelled::Waiting => CancelReply::Cancelled,
                    Cancelled::Running => CancelReply::Stopping,
                    Cancelled::Ended(_) => CancelReply::Ended,
                    Cancelled::Unknown => CancelReply::Unknown,
                })
            }),
        },
        Request::Retry { id } => match JobId::new(&id) {
            None => Ok(Reply::Retry(RetryReply::Unknown)),
            Some(id) => services.ledger.retry(id).await.map(|found| Reply::Retry(found.into())),
        },
        Request::RetryFailed => services.ledger.retry_failed().await.map(Reply::Retried),
        Request::Settings => Ok(Reply::Settings(services.settings.clone())),
        Request::Follow { .. } => Ok(Reply::Failed("not here".to_owned())),
    };
    done.unwrap_or_else(|error| Reply::Failed(error.to_string()))
}

impl From<Retried> for RetryReply {
    fn from(found: Retried) -> Self {
        match found {
            Retried::Queued => Self::Queued,
            Retried::NotFailed(_) => Self::NotFailed,
            Retried::NotAJob => Self::NotAJob,
            Retried::Unknown => Self::Unknown,
        }
    }
}

async fn submit(payload: &str, services: &Services) -> Result<Reply, LedgerError> {
    let bytes = payload.as_bytes();
    let draft = services.intake.read(bytes);
    let arrival = services.intake.arrival(None, Source::Cli, bytes, draft, &ToolTable::new());
    let accepted = services.ledger.accept(vec![arrival.clone()]).await?;
    intake::tell(&[arrival], &accepted);
    Ok(match accepted.first() {
        Some(job) => {
            Reply::Submitted(SubmitReply { id: job.id.to_string(), status: job.status.to_string() })
        }
        None => Reply::Failed("nothing was written down".to_owned()),
    })
}

/// Passes the lines of a job on until whoever asked goes away.
async fn follow(
    id: &str,
    services: &Services,
    mut reader: BufReader<tokio::io::Take<tokio::net::unix::OwnedReadHalf>>,
    mut write: tokio::net::unix::OwnedWriteHalf,
) -> io::Result<()> {
    let Some(id) = JobId::new(id) else { return Ok(()) };
    let mut lines = services.tap.follow(id);
    let mut rest = [0; 1];
    loop {
        let line = tokio::select! {
            line = lines.recv() => line,
            _ = reader.read(&mut rest) => None,
        };
        let Some(line) = line else { return Ok(()) };
        let line = Line {
            attempt: line.origin.attempt,
            stream: line.stream.as_str().to_owned(),
            line: line.line,
        };
        write.write_all(line_of(&Reply::Line(line)).as_bytes()).await?;
    }
}

//! The ledger as commands reach it: through a running `serve`, or by themselves.

use std::path::Path;

use super::{CliError, runtime};
use crate::clock;
use crate::config::Settings;
use crate::control::{CancelReply, Client, Reply, Request, RetryReply};
use crate::doors::intake::Intake;
use crate::experiments::tools::ToolTable;
use crate::job::{JobId, Source};
use crate::ledger::{self, Cancelled, Ledger, OpenError, Outbox, Reader};

/// Opens the ledger for reading.
pub(super) fn reader(settings: &Settings) -> Result<Reader, CliError> {
    Reader::open(&settings.ledger_path).map_err(|error| match error {
        ledger::LedgerError::Missing { path } => CliError::Failed(format!(
            "there is no ledger at {} yet; `executor serve` makes it (DB_URL names another)",
            path.display()
        )),
        error => error.into(),
    })
}

/// The job that is meant: an id, or the beginning of only one.
pub(super) fn find(reader: &Reader, text: &str) -> Result<JobId, CliError> {
    let unknown =
        || CliError::Failed(format!("no job {text} in the ledger; `executor job list` shows them"));
    let id = JobId::new(text).ok_or_else(unknown)?;
    if reader.job(&id)?.is_some() {
        return Ok(id);
    }
    match reader.find(text)?.as_slice() {
        [] => Err(unknown()),
        [only] => Ok(only.clone()),
        _ => Err(CliError::Failed(format!("several jobs begin with {text}; give more of the id"))),
    }
}

/// Whether a `serve` runs over this ledger and answers.
pub(super) fn client(settings: &Settings) -> Option<Client> {
    Client::connect(&settings.ledger_path)
}

/// Asks a running `serve`, or works on the ledger itself.
pub(super) fn ask(settings: &Settings, request: &Request) -> Result<Reply, CliError> {
    match client(settings) {
        Some(client) => Ok(client.ask(request)?),
        None => runtime()?.block_on(alone(settings, request)),
    }
}

async fn alone(settings: &Settings, request: &Request) -> Result<Reply, CliError> {
    let ledger = open(settings)?;
    let done = act(&ledger, settings, request).await;
    ledger.close().await;
    done
}

fn open(settings: &Settings) -> Result<Ledger, CliError> {
    let options = ledger::Options {
        path: settings.ledger_path.clone(),
        executor_id: settings.executor_id.clone(),
        start_method: settings.python.start_method,
        // A later `serve` tells Redis.
        outbox: if settings.redis.is_some() { Outbox::Kept } else { Outbox::Off },
    };
    match Ledger::open(options) {
        Ok((ledger, _, _)) => Ok(ledger),
        Err(OpenError::InUse { holder, .. }) => Err(CliError::Failed(format!(
            "an executor{holder} has the ledger {}, but does not answer on its socket; is it hung, or has its socket been removed?",
            settings.ledger_path.display()
        ))),
        Err(error) => Err(error.into()),
    }
}

async fn act(ledger: &Ledger, settings: &Settings, request: &Request) -> Result<Reply, CliError> {
    let job = |id: &str| JobId::new(id).ok_or_else(|| CliError::Failed(format!("no job {id}")));
    Ok(match request {
        Request::Submit { payload } => {
            let intake = Intake::new(settings);
            let draft = intake.read(payload.as_bytes());
            let tools = ToolTable::new();
            let arrival = intake.arrival(None, Source::Cli, payload.as_bytes(), draft, &tools);
            let accepted = ledger.accept(vec![arrival]).await?;
            let (id, status) = accepted
                .first()
                .map_or_else(Default::default, |job| (job.id.to_string(), job.status.to_string()));
            Reply::Submitted(crate::control::SubmitReply { id, status })
        }
        Request::Cancel { id } => Reply::Cancel(match ledger.cancel(job(id)?).await? {
            // Nobody runs it: an executor died over it, and the next start puts it back.
            Cancelled::Waiting | Cancelled::Running => CancelReply::Cancelled,
            Cancelled::Ended(_) => CancelReply::Ended,
            Cancelled::Unknown => CancelReply::Unknown,
        }),
        Request::Retry { id } => Reply::Retry(RetryReply::from(ledger.retry(job(id)?).await?)),
        Request::RetryFailed => Reply::Retried(ledger.retry_failed().await?),
        Request::Settings | Request::Follow { .. } => {
            return Err(CliError::Failed("no executor is running over this ledger".to_owned()));
        }
    })
}

/// A private directory in the system's temporary one, removed when dropped.
#[derive(Debug)]
pub(super) struct Scratch(std::path::PathBuf);

impl Scratch {
    pub(super) fn new() -> Result<Self, CliError> {
        use std::os::unix::fs::DirBuilderExt;
        let name = format!("executor-{}-{}", std::process::id(), clock::now().as_millisecond());
        let path = std::env::temp_dir().join(name);
        std::fs::DirBuilder::new()
            .mode(0o700)
            .create(&path)
            .map_err(|source| CliError::System { what: "no temporary directory", source })?;
        Ok(Self(path))
    }

    pub(super) fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        // What is left there is the system's to clean.
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

//! The command line: one file per command. They print and ask; they decide nothing.

mod args;
mod backup;
mod doctor;
mod exit;
mod fsck;
mod job;
mod local;
mod logs;
mod out;
mod run;
mod schedule;
mod submit;
mod table;
mod tool;

use std::ffi::OsString;

use clap::{CommandFactory, Parser};

use crate::config::{self, ConfigErrors, Environment, Loaded};
use crate::control::ClientError;
use crate::ledger::{BackupError, LedgerError, OpenError};
use crate::link::LinkError;
use crate::serve::{self, ServeError};
use crate::slots::SlotsError;
use args::{Cli, Command};

/// The ledger is in use, or our name is.
const IN_USE: u8 = 4;
/// The ledger cannot be opened.
const NO_LEDGER: u8 = 3;

/// Why a command could not do what it was asked; `main` prints it and exits.
#[derive(Debug, thiserror::Error)]
pub enum CliError {
    /// The configuration has faults.
    #[error("the configuration is faulty\n{0}")]
    Config(ConfigErrors),
    /// Used wrongly.
    #[error("{0}")]
    Usage(String),
    /// It could not be done.
    #[error("{0}")]
    Failed(String),
    /// The ledger cannot be read.
    #[error("the ledger cannot be read")]
    Ledger(#[from] LedgerError),
    /// The ledger cannot be opened.
    #[error(transparent)]
    Open(#[from] OpenError),
    /// The ledger cannot be copied.
    #[error(transparent)]
    Backup(#[from] BackupError),
    /// A running executor.
    #[error(transparent)]
    Client(#[from] ClientError),
    /// Redis.
    #[error("Redis cannot be asked")]
    Link(#[from] LinkError),
    /// Python.
    #[error(transparent)]
    Slots(#[from] SlotsError),
    /// The daemon.
    #[error(transparent)]
    Serve(#[from] ServeError),
    /// The system refused.
    #[error("{what}")]
    System {
        /// What was tried.
        what: &'static str,
        /// Why not.
        #[source]
        source: std::io::Error,
    },
}

impl From<ConfigErrors> for CliError {
    fn from(errors: ConfigErrors) -> Self {
        Self::Config(errors)
    }
}

impl CliError {
    /// The exit code that says it (SPEC 2).
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::Config(_) | Self::Usage(_) => exit::USAGE,
            Self::Open(open) | Self::Serve(ServeError::Ledger(open)) => match open {
                OpenError::InUse { .. } => IN_USE,
                OpenError::Failed { .. } => NO_LEDGER,
            },
            Self::Serve(ServeError::Identity(_)) => IN_USE,
            Self::Serve(ServeError::Http(_) | ServeError::Link(_)) => exit::USAGE,
            _ => exit::FAILED,
        }
    }
}

/// Does what the arguments say; the exit code, or why it could not be done.
pub fn run(
    arguments: impl IntoIterator<Item = OsString>,
    environment: &Environment,
) -> Result<u8, CliError> {
    let cli = match Cli::try_parse_from(arguments) {
        Ok(cli) => cli,
        Err(error) => {
            // Help goes to stdout and is no error; clap knows.
            let _ = error.print();
            return Ok(u8::try_from(error.exit_code()).unwrap_or(exit::USAGE));
        }
    };
    if let Command::Completions { shell } = cli.command {
        clap_complete::generate(shell, &mut Cli::command(), "executor", &mut out::Stdout);
        return Ok(exit::OK);
    }
    let loaded = config::load(&cli.flags(), environment)?;
    #[cfg(feature = "failpoints")]
    crate::failpoint::arm(environment.get(crate::failpoint::VARIABLE))
        .map_err(|value| CliError::Usage(format!("no such failpoint: {value}")))?;
    dispatch(cli.command, loaded, environment)
}

fn dispatch(command: Command, loaded: Loaded, environment: &Environment) -> Result<u8, CliError> {
    let settings = &loaded.settings;
    match command {
        Command::Serve(_) => {
            harden()?;
            serve::serve(loaded, environment)?;
            Ok(exit::OK)
        }
        Command::Run(args) => {
            harden()?;
            run::run(&args, settings)
        }
        Command::Submit(args) => submit::submit(&args, settings),
        Command::Job { command } => job::job(&command, settings),
        Command::Schedule { command } => schedule::schedule(&command, settings),
        Command::Tool { command } => tool::tool(&command, settings),
        Command::Backup(args) => backup::backup(&args, settings),
        Command::Doctor(args) => doctor::doctor(&args, &loaded),
        Command::Fsck(args) => fsck::fsck(&args, settings),
        Command::Completions { .. } => Ok(exit::OK),
    }
}

/// Before any other thread exists: the environment's secrets are wiped from memory.
fn harden() -> Result<(), CliError> {
    crate::slots::harden().map_err(|source| CliError::System {
        what: "the process cannot be closed to others",
        source,
    })
}

/// A small runtime for a command that asks others.
fn runtime() -> Result<tokio::runtime::Runtime, CliError> {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|source| CliError::System { what: "no runtime", source })
}

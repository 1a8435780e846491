//! The arguments, and their help.

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Parser, Subcommand};
use clap_complete::Shell;

use crate::config::{self, Flag, Flags};

/// A duration over 0.
fn duration(text: &str) -> Result<Duration, String> {
    config::duration(text)
        .filter(|duration| !duration.is_zero())
        .ok_or_else(|| "it must be over 0, such as 8, 0.5, 500ms, 8s, 5m or 2h".to_owned())
}

/// Runs Python jobs safely: a fresh process per attempt, the whole tree killed at the deadline, nothing lost.
#[derive(Debug, Parser)]
#[command(name = "executor", version, max_term_width = 100, arg_required_else_help = true)]
pub(super) struct Cli {
    /// Read settings from this file instead of config/schedule.yaml.
    #[arg(long, global = true, value_name = "FILE")]
    config: Option<PathBuf>,
    #[command(subcommand)]
    pub(super) command: Command,
}

impl Cli {
    /// What the flags say of settings.
    pub(super) fn flags(&self) -> Flags {
        let overrides = match &self.command {
            Command::Serve(serve) => serve.overrides(),
            _ => Vec::new(),
        };
        Flags { file: self.config.clone(), overrides }
    }
}

#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// The daemon: take jobs and schedules, run them, record them.
    Serve(Box<ServeArgs>),
    /// Run a target here and now, through the same isolation, without Redis or ledger.
    ///
    /// The result goes to stdout as JSON; the tool's own output and the verdict go to stderr.
    /// Exit codes: 0 ok, 2 wrong parameters, 66 not found, 77 not allowed, 124 timed out, 137 killed
    /// by a limit or a signal, 130 or 143 stopped by you, 1 any other failure.
    Run(RunArgs),
    /// Enqueue a job; print its id.
    Submit(SubmitArgs),
    /// Look at jobs and steer them.
    Job {
        #[command(subcommand)]
        command: JobCommand,
    },
    /// Cron expressions and schedules.
    Schedule {
        #[command(subcommand)]
        command: ScheduleCommand,
    },
    /// The tools under TOOLS_PATH.
    Tool {
        #[command(subcommand)]
        command: ToolCommand,
    },
    /// Copy the ledger to a new file, while serve runs or not.
    ///
    /// The copy is of one moment, checked and on disk before it gets its name. It is a ledger of its
    /// own, with an id of its own: stop the executor before serving from it, for both would run what
    /// was waiting.
    Backup(BackupArgs),
    /// Check python, ledger, Redis, directories, limits, isolation.
    Doctor(DoctorArgs),
    /// Look the ledger, its copy in Redis and the processes of runs over, and say what is wrong.
    ///
    /// Reads only, also while serve is at work. Exit codes: 0 all is well, 1 faults were found, 3 the
    /// ledger cannot be opened.
    Fsck(FsckArgs),
    /// Print a completion script.
    Completions {
        /// For which shell.
        shell: Shell,
    },
}

/// Flags of `serve`: each overrides a setting. URLs may hold passwords, so none takes one.
#[derive(Debug, Args)]
pub(super) struct ServeArgs {
    /// Attempts at one time (CONCURRENCY).
    #[arg(long, value_name = "N")]
    concurrency: Option<String>,
    /// This executor's name (EXECUTOR_ID).
    #[arg(long, value_name = "NAME")]
    executor_id: Option<String>,
    /// Where /healthz and friends listen, or none (HTTP_ADDR).
    #[arg(long, value_name = "ADDR:PORT")]
    http_addr: Option<String>,
    /// The Redis list jobs are pushed to (JOB_QUEUE).
    #[arg(long, value_name = "LIST")]
    job_queue: Option<String>,
    /// trigger, cron or speedrun (SCHEDULE_MODE).
    #[arg(long, value_name = "MODE")]
    mode: Option<String>,
    /// forkserver or spawn (START_METHOD).
    #[arg(long, value_name = "METHOD")]
    start_method: Option<String>,
    /// The interpreter (PYTHON).
    #[arg(long, value_name = "PROGRAM")]
    python: Option<String>,
    /// The directory that holds the package tasks (TASKS_PATH).
    #[arg(long, value_name = "DIR")]
    tasks_path: Option<String>,
    /// The directory of the tools (TOOLS_PATH).
    #[arg(long, value_name = "DIR")]
    tools_path: Option<String>,
    /// json or pretty (LOG_FORMAT).
    #[arg(long, value_name = "FORMAT")]
    log_format: Option<String>,
    /// trace, debug, info, warn, error (LOG_LEVEL).
    #[arg(long, value_name = "LEVEL")]
    log_level: Option<String>,
    /// For the whole exit (SHUTDOWN_GRACE).
    #[arg(long, value_name = "DURATION")]
    shutdown_grace: Option<String>,
}

impl ServeArgs {
    fn overrides(&self) -> Vec<Flag> {
        let all = [
            ("executor.concurrency", "--concurrency", &self.concurrency),
            ("executor.id", "--executor-id", &self.executor_id),
            ("http.addr", "--http-addr", &self.http_addr),
            ("queue.name", "--job-queue", &self.job_queue),
            ("mode", "--mode", &self.mode),
            ("python.start_method", "--start-method", &self.start_method),
            ("python.interpreter", "--python", &self.python),
            ("python.tasks_path", "--tasks-path", &self.tasks_path),
            ("python.tools_path", "--tools-path", &self.tools_path),
            ("log.format", "--log-format", &self.log_format),
            ("log.level", "--log-level", &self.log_level),
            ("executor.shutdown_grace", "--shutdown-grace", &self.shutdown_grace),
        ];
        all.into_iter()
            .filter_map(|(key, name, value)| Some(Flag { key, name, value: value.clone()? }))
            .collect()
    }
}

#[derive(Debug, Args)]
pub(super) struct RunArgs {
    /// A tool's name, tasks.pkg.module:function, tasks.pkg.module:Class.method, or dotted.
    pub(super) target: String,
    /// Keyword arguments as a JSON object.
    #[arg(long, value_name = "JSON", default_value = "{}")]
    pub(super) params: String,
    /// How long it may take, such as 8, 500ms or 5m; default: TOOL_TIMEOUT, or 300 s.
    #[arg(long, value_name = "DURATION", value_parser = duration)]
    pub(super) timeout: Option<Duration>,
}

#[derive(Debug, Args)]
pub(super) struct SubmitArgs {
    /// A tool's name, tasks.pkg.module:function, tasks.pkg.module:Class.method, or dotted.
    pub(super) target: String,
    /// Keyword arguments as a JSON object.
    #[arg(long, value_name = "JSON", default_value = "{}")]
    pub(super) params: String,
    /// event, on_demand, scheduled_batch, etl or maintenance.
    #[arg(long, value_name = "TYPE", default_value = "on_demand")]
    pub(super) task_type: String,
    /// Jobs with the same key run once.
    #[arg(long, value_name = "KEY")]
    pub(super) idempotency_key: Option<String>,
    /// 9 (high) to 1 (low).
    #[arg(long, value_name = "1-9")]
    pub(super) priority: Option<u8>,
    /// How long one attempt may take, such as 8, 500ms or 5m.
    #[arg(long, value_name = "DURATION", value_parser = duration)]
    pub(super) timeout: Option<Duration>,
    /// Counted failures in all before the job is FAILED.
    #[arg(long, value_name = "N")]
    pub(super) max_attempts: Option<u32>,
    /// Not before this time (RFC 3339 with a zone).
    #[arg(long, value_name = "TIME")]
    pub(super) run_at: Option<String>,
    /// Wait for the end; print the result alone. Exit codes as those of run.
    #[arg(long)]
    pub(super) wait: bool,
}

#[derive(Debug, Subcommand)]
pub(super) enum JobCommand {
    /// Jobs in the ledger, newest first.
    List {
        /// Only QUEUED, RUNNING, COMPLETED or FAILED.
        #[arg(long, value_name = "STATUS")]
        status: Option<String>,
        /// At most so many.
        #[arg(long, value_name = "N", default_value_t = 20)]
        limit: u32,
        /// For programs.
        #[arg(long)]
        json: bool,
    },
    /// All of one job: its row, its attempts, why it is not running.
    Show {
        /// Its id, or the beginning of it.
        id: String,
        /// For programs.
        #[arg(long)]
        json: bool,
    },
    /// What a job wrote.
    Logs {
        /// Its id, or the beginning of it.
        id: String,
        /// Follow until the job ends.
        #[arg(short, long)]
        follow: bool,
    },
    /// Queue a FAILED job again.
    Retry {
        /// Its id, or the beginning of it.
        #[arg(required_unless_present = "failed", conflicts_with = "failed")]
        id: Option<String>,
        /// Every FAILED job.
        #[arg(long)]
        failed: bool,
    },
    /// Cancel a waiting or running job.
    Cancel {
        /// Its id, or the beginning of it.
        id: String,
    },
}

#[derive(Debug, Subcommand)]
pub(super) enum ScheduleCommand {
    /// The next times of an expression, or what is wrong with it.
    Test {
        /// Five fields, six with seconds last, or @hourly and its kin.
        expression: String,
        /// Default: TIMEZONE.
        #[arg(long, value_name = "ZONE")]
        timezone: Option<String>,
        /// Times after this one (RFC 3339 with a zone); default: now.
        #[arg(long, value_name = "TIME")]
        from: Option<String>,
        /// How many.
        #[arg(short = 'n', default_value_t = 5)]
        count: usize,
        /// For programs.
        #[arg(long)]
        json: bool,
    },
    /// All schedules known, each with its next time.
    List {
        /// For programs.
        #[arg(long)]
        json: bool,
    },
}

#[derive(Debug, Subcommand)]
pub(super) enum ToolCommand {
    /// The tools found.
    List {
        /// For programs.
        #[arg(long)]
        json: bool,
    },
    /// Load a tool in a child and say what it is, or what is wrong with it.
    Check {
        /// A file, or a tool's name.
        path: PathBuf,
        /// For programs.
        #[arg(long)]
        json: bool,
    },
}

#[derive(Debug, Args)]
pub(super) struct BackupArgs {
    /// The copy; it must not be there yet.
    pub(super) file: PathBuf,
    /// For programs.
    #[arg(long)]
    pub(super) json: bool,
}

#[derive(Debug, Args)]
pub(super) struct DoctorArgs {
    /// For programs.
    #[arg(long)]
    pub(super) json: bool,
    /// Every setting with its origin, as JSON: of the running executor, or as they would be.
    #[arg(long)]
    pub(super) settings: bool,
    /// Only ask the running executor's /healthz: exit 0 if it is well, else 1.
    #[arg(long)]
    pub(super) health: bool,
}

#[derive(Debug, Args)]
pub(super) struct FsckArgs {
    /// For programs: a list of findings, each with check, job_id, detail and advice.
    #[arg(long)]
    pub(super) json: bool,
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_arguments_are_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn flags_of_serve_name_their_settings() {
        let cli = Cli::parse_from(["executor", "serve", "--concurrency", "4", "--mode", "cron"]);
        let flags = cli.flags();
        assert_eq!(flags.overrides[0].key, "executor.concurrency");
        assert_eq!(
            (flags.overrides[1].name, flags.overrides[1].value.as_str()),
            ("--mode", "cron")
        );
    }
}

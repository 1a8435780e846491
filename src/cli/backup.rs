//! `executor backup`: a copy of the ledger.

use serde_json::json;

use super::args::BackupArgs;
use super::{CliError, exit, out, runtime};
use crate::config::Settings;
use crate::{ledger, signals};

pub(super) fn backup(args: &BackupArgs, settings: &Settings) -> Result<u8, CliError> {
    let runtime = runtime()?;
    let within = runtime.enter();
    signals::outlive_file_limits()
        .map_err(|source| CliError::System { what: "signals cannot be caught", source })?;
    drop(within);
    let copied = ledger::backup(&settings.ledger_path, &args.file)?;
    if args.json {
        out::json(&json!({
            "file": args.file,
            "bytes": copied.bytes,
            "jobs": copied.jobs,
            "ledger_id": copied.ledger_id,
            "copied_from": copied.copied_from,
        }));
    } else {
        out::line(&format!(
            "{}: {} jobs, {} bytes, checked; to serve from it, stop the executor and name it with DB_URL or put it in the ledger's place",
            args.file.display(),
            copied.jobs,
            copied.bytes
        ));
    }
    Ok(exit::OK)
}

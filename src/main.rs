//! Arguments to command to exit code; the only place that exits.

use std::io::Write;
use std::process::ExitCode;

fn main() -> ExitCode {
    let mut arguments = std::env::args_os();
    if arguments.nth(1).is_some_and(|first| first == executor::slots::LAUNCH) {
        let error = executor::slots::launch(arguments);
        tell(&format!("launcher: {error}"));
        return ExitCode::from(127);
    }
    let environment = executor::config::Environment::of_process();
    match executor::cli::run(std::env::args_os(), &environment) {
        Ok(code) => code.into(),
        Err(error) => {
            tell(&format!("error: {error}"));
            let mut cause = std::error::Error::source(&error);
            while let Some(source) = cause {
                tell(&format!("  caused by: {source}"));
                cause = source.source();
            }
            error.exit_code().into()
        }
    }
}

/// To standard error; if nobody is there, nobody is told.
fn tell(text: &str) {
    let _ = writeln!(std::io::stderr(), "{text}");
}

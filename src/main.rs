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
            let mut told = String::new();
            while let Some(source) = cause {
                // A cause that only passes on the words of its own cause is told once.
                let text = source.to_string();
                if text != told {
                    tell(&format!("  caused by: {text}"));
                }
                told = text;
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

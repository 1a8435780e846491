//! Writing for people and programs. A reader that has gone away is no error.

use std::io::{self, IsTerminal, Write};

/// Writes a line to standard output.
pub(super) fn line(text: &str) {
    let _ = writeln!(io::stdout().lock(), "{text}");
}

/// Writes a line to standard error.
pub(super) fn note(text: &str) {
    let _ = writeln!(io::stderr().lock(), "{text}");
}

/// Writes JSON to standard output, indented if a person looks.
pub(super) fn json(value: &serde_json::Value) {
    let text = if io::stdout().is_terminal() {
        serde_json::to_string_pretty(value).unwrap_or_default()
    } else {
        value.to_string()
    };
    line(&text);
}

/// A line on a terminal that is written over.
#[derive(Debug, Default)]
pub(super) struct Live {
    shown: bool,
}

impl Live {
    /// Shows this instead; nothing where no terminal is.
    pub(super) fn show(&mut self, text: &str) {
        if io::stderr().is_terminal() {
            self.shown = true;
            let _ = write!(io::stderr().lock(), "\r\x1b[2K{text}");
        }
    }

    /// Takes it away.
    pub(super) fn clear(&mut self) {
        if std::mem::take(&mut self.shown) {
            let _ = write!(io::stderr().lock(), "\r\x1b[2K");
        }
    }
}

/// Standard output for generated text.
#[derive(Debug)]
pub(super) struct Stdout;

impl Write for Stdout {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let _ = io::stdout().lock().write_all(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

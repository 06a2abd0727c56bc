//! Standard output and standard error, without panics when nobody reads them.

use std::io::{self, IsTerminal, Write};

use crate::failure::Failure;
use crate::text;

/// Standard output, or what stands for it in a test.
pub(crate) struct Out {
    sink: Box<dyn Write>,
    is_terminal: bool,
}

impl Out {
    /// Standard output.
    pub(crate) fn stdout() -> Self {
        Out { sink: Box::new(io::stdout()), is_terminal: io::stdout().is_terminal() }
    }

    /// Standard error.
    pub(crate) fn stderr() -> Self {
        Out { sink: Box::new(io::stderr()), is_terminal: io::stderr().is_terminal() }
    }

    #[cfg(test)]
    pub(crate) fn new(sink: Box<dyn Write>, is_terminal: bool) -> Self {
        Out { sink, is_terminal }
    }

    /// Whether a person looks at it.
    pub(crate) fn is_terminal(&self) -> bool {
        self.is_terminal
    }

    /// Writes text at once; on a terminal, neutral.
    pub(crate) fn write(&mut self, text: &str) -> Result<(), Failure> {
        match self.is_terminal {
            true => self.bytes(text::neutral(text).as_bytes()),
            false => self.bytes(text.as_bytes()),
        }
    }

    /// Writes text and a line end.
    pub(crate) fn line(&mut self, text: &str) -> Result<(), Failure> {
        self.write(&format!("{text}\n"))
    }

    /// Writes a table, columns aligned.
    pub(crate) fn table(&mut self, rows: &[Vec<String>]) -> Result<(), Failure> {
        aligned(rows).iter().try_for_each(|line| self.line(line))
    }

    /// Writes bytes as they are.
    pub(crate) fn bytes(&mut self, bytes: &[u8]) -> Result<(), Failure> {
        let written = self.sink.write_all(bytes).and_then(|()| self.sink.flush());
        written.map_err(|error| match error.kind() {
            io::ErrorKind::BrokenPipe => Failure::Unread,
            _ => Failure::Failed(format!("cannot write the output: {error}")),
        })
    }
}

/// The lines of a table, columns aligned.
pub(crate) fn aligned(rows: &[Vec<String>]) -> Vec<String> {
    let columns = rows.iter().map(Vec::len).max().unwrap_or_default();
    let width = |column: usize| {
        let cells = rows.iter().filter_map(|row| row.get(column));
        cells.map(|cell| cell.chars().count()).max().unwrap_or_default()
    };
    let widths: Vec<usize> = (0..columns).map(width).collect();
    let line = |row: &Vec<String>| {
        let cells = row.iter().zip(&widths).map(|(cell, width)| format!("{cell:<width$}"));
        cells.collect::<Vec<_>>().join("  ").trim_end().to_owned()
    };
    rows.iter().map(line).collect()
}

/// Says on standard error what went wrong.
pub(crate) fn complain(failure: &Failure) {
    if !matches!(failure, Failure::Unread) {
        note(&format!("ashctl: {}", text::neutral(&failure.to_string())));
    }
}

/// A line on standard error. If nobody reads that either, there is nobody to tell.
pub(crate) fn note(line: &str) {
    let _ = writeln!(io::stderr(), "{line}");
}

/// A line on standard error for a person: none is written when it is not a terminal.
pub(crate) fn aside(line: &str) {
    if io::stderr().is_terminal() {
        note(&format!("\u{1b}[2m{}\u{1b}[0m", text::neutral(line)));
    }
}

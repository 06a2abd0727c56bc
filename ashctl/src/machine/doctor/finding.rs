//! What is said about one part of the machine.

use serde_json::{Value, json};

/// How it is.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Grade {
    /// As it should be.
    Ok,
    /// Ash runs, but somebody should look at it.
    Warn,
    /// Ash cannot do its work like this.
    Missing,
}

impl Grade {
    fn word(self) -> &'static str {
        match self {
            Grade::Ok => "ok",
            Grade::Warn => "warn",
            Grade::Missing => "missing",
        }
    }
}

/// One finding.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) struct Finding {
    /// The part of the machine; a heading of docs/troubleshooting.md.
    pub(super) name: &'static str,
    /// How it is.
    pub(super) grade: Grade,
    /// What was seen.
    pub(super) detail: String,
    /// What to do about it; empty when nothing is.
    pub(super) mend: String,
}

impl Finding {
    /// All is well.
    pub(super) fn ok(name: &'static str, detail: impl Into<String>) -> Self {
        Finding { name, grade: Grade::Ok, detail: detail.into(), mend: String::new() }
    }

    /// Worth a look.
    pub(super) fn warn(
        name: &'static str,
        detail: impl Into<String>,
        mend: impl Into<String>,
    ) -> Self {
        Finding { name, grade: Grade::Warn, detail: detail.into(), mend: mend.into() }
    }

    /// Needed, and not there.
    pub(super) fn missing(
        name: &'static str,
        detail: impl Into<String>,
        mend: impl Into<String>,
    ) -> Self {
        Finding { name, grade: Grade::Missing, detail: detail.into(), mend: mend.into() }
    }

    /// For people: a line, and one below it with the mend.
    pub(super) fn text(&self) -> String {
        let Finding { name, grade, detail, mend } = self;
        let line = format!("{:<8} {name}: {detail}\n", grade.word());
        if mend.is_empty() { line } else { format!("{line}         → {mend}\n") }
    }

    /// For programs.
    pub(super) fn document(&self) -> Value {
        let mend = (!self.mend.is_empty()).then_some(&self.mend);
        json!({
            "name": self.name,
            "grade": self.grade.word(),
            "detail": self.detail,
            "mend": mend,
        })
    }
}

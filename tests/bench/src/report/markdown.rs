//! A report as a document.

use std::fmt::Write as _;

use super::{Figure, Report, Row, Unit};

impl Report {
    /// The whole document.
    pub fn markdown(&self) -> String {
        let mut out = String::from(
            "# Benchmarks\n\n\
             Written by `make bench`; `make bench` with a figure's word measures only that one\n\
             again (`scripts/bench.sh turn`). Floors are what a release must hold. Times are\n\
             medians and 99th percentiles by nearest rank; kB and MB are thousands and millions of bytes.\n\n",
        );
        out += &self.summary();
        for figure in &self.figures {
            out += &figure.markdown();
        }
        out
    }

    /// The values that have floors.
    pub fn summary(&self) -> String {
        let mut out = String::from(
            "| figure | n | median | p99 | floor | |\n|---|---:|---:|---:|---:|---|\n",
        );
        for figure in &self.figures {
            for row in figure.rows.iter().filter(|row| row.is_ok().is_some()) {
                let what = format!("[{}](#{}) {}", figure.name, figure.name, row.what);
                out += &row.line(&what);
            }
        }
        out + "\n"
    }
}

impl Figure {
    /// The figure's section.
    pub fn markdown(&self) -> String {
        let mut out = format!("## {}\n\n{}.\n\n{}\n\n", self.name, self.title, wrap(&self.how));
        out += "| | n | median | p99 | floor | |\n|---|---:|---:|---:|---:|---|\n";
        for row in &self.rows {
            out += &row.line(&row.what);
        }
        out.push('\n');
        for note in &self.notes {
            out += &wrap(&format!("- {note}")).replace('\n', "\n  ");
            out.push('\n');
        }
        out + &self.circumstances() + "\n"
    }

    fn circumstances(&self) -> String {
        let taken = &self.taken;
        let mut out = String::new();
        let (before, after) = taken.load;
        // Writing to a string cannot fail.
        let _ = write!(out, "- {}; {}; took {} s; ", taken.at, taken.machine, taken.seconds);
        let _ = write!(out, "load average {before:.1} before, {after:.1} after");
        if taken.nice != 0 {
            let _ = write!(out, "; everything ran at nice {}", taken.nice);
        }
        wrap(&out).replace('\n', "\n  ") + "\n"
    }
}

impl Row {
    fn line(&self, what: &str) -> String {
        let p99 = self.p99.map(|value| self.unit.show(value)).unwrap_or_default();
        let verdict = match self.is_ok() {
            Some(true) => "ok",
            Some(false) => "**missed**",
            None => "",
        };
        let median = self.unit.show(self.median);
        format!("| {what} | {} | {median} | {p99} | {} | {verdict} |\n", self.n, self.floors())
    }

    fn floors(&self) -> String {
        let floors = [self.floor, self.floor_p99];
        let shown: Vec<_> = floors.into_iter().flatten().map(|it| self.unit.show(it)).collect();
        shown.join(" / ")
    }
}

impl Unit {
    fn show(self, value: f64) -> String {
        match self {
            Unit::Ms if value.abs() < 10.0 => format!("{value:.3} ms"),
            Unit::Ms => format!("{value:.1} ms"),
            Unit::PerSecond => format!("{}/s", thousands(value)),
            Unit::Mb => format!("{value:.2} MB"),
            Unit::Kb => format!("{value:.1} kB"),
            Unit::Percent => format!("{value:.0} %"),
            Unit::Times => format!("{value:.2} x"),
            Unit::Count => thousands(value),
        }
    }
}

fn thousands(value: f64) -> String {
    let digits = format!("{value:.0}");
    let mut out = String::new();
    for (place, digit) in digits.chars().enumerate() {
        if place > 0 && (digits.len() - place).is_multiple_of(3) {
            out.push(',');
        }
        out.push(digit);
    }
    out
}

/// Breaks lines behind 100 columns.
fn wrap(text: &str) -> String {
    let mut out = String::new();
    let mut column = 0;
    for word in text.split_whitespace() {
        if column > 0 && column + 1 + word.len() > 98 {
            out.push('\n');
            column = 0;
        } else if column > 0 {
            out.push(' ');
            column += 1;
        }
        out += word;
        column += word.len();
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::Taken;

    fn figure(name: &str) -> Figure {
        let row = Row::plain("reads", 3, Unit::PerSecond, 61_234.4).floor(60_000.0);
        let slow = Row { p99: Some(41.0), ..Row::plain("create", 300, Unit::Ms, 11.9) };
        Figure {
            name: name.to_owned(),
            title: "How fast".to_owned(),
            how: "By the clock.".to_owned(),
            rows: vec![row, slow.floor(12.0).floor_p99(40.0)],
            notes: vec![],
            taken: Taken {
                at: "2026-01-01".to_owned(),
                machine: "a machine".to_owned(),
                load: (0.1, 0.2),
                nice: 0,
                seconds: 1,
            },
        }
    }

    #[test]
    fn values_stand_beside_their_floors() {
        let text = figure("get").markdown();
        assert!(text.contains("| reads | 3 | 61,234/s |  | 60,000/s | ok |"), "{text}");
        let create = "| create | 300 | 11.9 ms | 41.0 ms | 12.0 ms / 40.0 ms | **missed** |";
        assert!(text.contains(create), "{text}");
    }

    #[test]
    fn what_is_to_be_none_is_missed_by_one() {
        let lost = |count| Row::plain("lost", 9, Unit::Count, count).floor(0.0).line("lost");
        assert_eq!(lost(0.0), "| lost | 9 | 0 |  | 0 | ok |\n");
        assert_eq!(lost(1_000.0), "| lost | 9 | 1,000 |  | 0 | **missed** |\n");
        let slower = Row::plain("", 1, Unit::Times, 1.25).floor(1.3);
        assert_eq!(slower.line("slower"), "| slower | 1 | 1.25 x |  | 1.30 x | ok |\n");
    }

    #[test]
    fn a_figure_that_is_measured_again_replaces_the_old_one() {
        let mut report = Report::default();
        for name in ["get", "turn", "get"] {
            report.put(figure(name), &["turn", "get"]);
        }
        let names: Vec<_> = report.figures.iter().map(|figure| figure.name.as_str()).collect();
        assert_eq!(names, ["turn", "get"]);
    }
}

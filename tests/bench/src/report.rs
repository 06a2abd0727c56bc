//! What was measured: kept between runs, so that one figure can be measured again, and rendered
//! for people.

mod markdown;

use std::fs;
use std::path::Path;

use anyhow::{Context as _, Result};
use serde::{Deserialize, Serialize};

/// All figures that were ever measured here; the newest of each.
#[derive(Debug, Default, Deserialize, Serialize)]
pub struct Report {
    /// By their order in the table.
    pub figures: Vec<Figure>,
}

/// One figure, as it was measured last.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct Figure {
    /// The word that measures it again.
    pub name: String,
    /// What it is.
    pub title: String,
    /// How it is measured.
    pub how: String,
    /// The values.
    pub rows: Vec<Row>,
    /// What else is to be known about this run.
    pub notes: Vec<String>,
    /// When, where, under which circumstances.
    pub taken: Taken,
}

/// The circumstances of a measurement.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct Taken {
    /// The time of its end, UTC.
    pub at: String,
    /// The machine.
    pub machine: String,
    /// Load average over the last minute, before and after.
    pub load: (f64, f64),
    /// Scheduling priority (nice) of everything measured.
    pub nice: i32,
    /// Seconds that it took.
    pub seconds: u64,
}

/// One value, with what it should be.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct Row {
    /// What was measured.
    pub what: String,
    /// How often.
    pub n: usize,
    /// The unit of all numbers here.
    pub unit: Unit,
    /// The median.
    pub median: f64,
    /// The 99th percentile, where it means something.
    pub p99: Option<f64>,
    /// What the median should be.
    pub floor: Option<f64>,
    /// What the 99th percentile should be.
    pub floor_p99: Option<f64>,
}

/// A unit.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub enum Unit {
    /// Milliseconds; less is better.
    Ms,
    /// Per second; more is better.
    PerSecond,
    /// Millions of bytes; less is better.
    Mb,
    /// Thousands of bytes; less is better.
    Kb,
    /// Percent of something that cannot be beaten; more is better.
    Percent,
    /// Times as much as something else; less is better.
    Times,
    /// How many; less is better.
    Count,
}

impl Row {
    /// A value without a floor.
    pub fn plain(what: &str, n: usize, unit: Unit, median: f64) -> Row {
        let (what, none) = (what.to_owned(), None);
        Row { what, n, unit, median, p99: none, floor: none, floor_p99: none }
    }

    /// Milliseconds with both quantiles.
    pub fn times(what: &str, times: &crate::stats::Times) -> Row {
        let row = Row::plain(what, times.n(), Unit::Ms, times.quantile(0.5));
        Row { p99: Some(times.quantile(0.99)), ..row }
    }

    /// With a floor for the median.
    pub fn floor(self, floor: f64) -> Row {
        Row { floor: Some(floor), ..self }
    }

    /// With a floor for the 99th percentile.
    pub fn floor_p99(self, floor: f64) -> Row {
        Row { floor_p99: Some(floor), ..self }
    }

    /// Whether it is as it should be; nothing when nothing is asked of it.
    pub fn is_ok(&self) -> Option<bool> {
        let holds = |value: f64, floor: f64| match self.unit {
            Unit::PerSecond | Unit::Percent => value >= floor,
            Unit::Ms | Unit::Mb | Unit::Kb | Unit::Times | Unit::Count => value <= floor,
        };
        let median = self.floor.map(|floor| holds(self.median, floor));
        let p99 = self.floor_p99.zip(self.p99).map(|(floor, value)| holds(value, floor));
        match (median, p99) {
            (None, None) => None,
            (median, p99) => Some(median.unwrap_or(true) && p99.unwrap_or(true)),
        }
    }
}

impl Report {
    /// The report as it was left; an empty one when there is none.
    ///
    /// # Errors
    /// When it is there and cannot be read.
    pub fn load(path: &Path) -> Result<Report> {
        match fs::read(path) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(Report::default()),
            Err(error) => Err(error).with_context(|| path.display().to_string()),
            Ok(bytes) => serde_json::from_slice(&bytes).with_context(|| {
                format!("{} is not what this version writes; remove it", path.display())
            }),
        }
    }

    /// Takes a figure in, at its place in `order`.
    pub fn put(&mut self, figure: Figure, order: &[&str]) {
        self.figures.retain(|known| known.name != figure.name);
        self.figures.push(figure);
        let place = |figure: &Figure| order.iter().position(|name| *name == figure.name);
        self.figures.sort_by_key(place);
    }

    /// Writes it for the next run and for people.
    ///
    /// # Errors
    /// When the files cannot be written.
    pub fn save(&self, data: &Path, text: &Path) -> Result<()> {
        let write = |path: &Path, content: String| {
            fs::write(path, content).with_context(|| path.display().to_string())
        };
        write(data, serde_json::to_string_pretty(self)? + "\n")?;
        write(text, self.markdown())
    }
}

//! The figures, a module each.

mod turn;

mod first;

mod primed;

mod create;

mod claim;

mod delta;

mod burst;

mod streams;

mod idle;

mod events;

mod get;

mod list;

mod memory;

mod bridge;

mod density;

mod kept;

mod resume;

mod again;

mod save;

mod restore;

mod fork;

mod restart;

mod read;

mod bundle;

use std::time::Instant;

use anyhow::Result;
use clap::ValueEnum;
use jiff::{Timestamp, Unit};

use crate::files::Fill;
use crate::machine;
use crate::report::{Figure, Row, Taken};

/// What can be measured, in the order of the report.
#[derive(Clone, Copy, Debug, Eq, PartialEq, ValueEnum)]
pub enum Name {
    /// Prompt to model API, second turn and later, beyond the CLI alone
    Turn,
    /// The first prompt of a session to the model API, beyond the CLI alone
    First,
    /// The first prompt of a session that was given a warm sandbox, to the model API
    Primed,
    /// POST session until its bridge is ready
    Create,
    /// POST session that is given a warm sandbox
    Claim,
    /// A delta from the bridge to an SSE client
    Delta,
    /// The first frames of 50 sessions that are sent messages at once
    Burst,
    /// Deltas to 500 open streams
    Streams,
    /// 10,000 clients that only listen
    Idle,
    /// Durable events per second
    Events,
    /// GET session per second
    Get,
    /// Lists, /health and /metrics with 100,000 sessions
    List,
    /// Memory of ashd
    Memory,
    /// Size of the bridge, memory of a sandbox
    Bridge,
    /// 1,000 live sandboxes
    Density,
    /// Real CLIs that are kept, idle and frozen
    Kept,
    /// POST resume of a session whose sandbox lives, and of one without
    Resume,
    /// Prompt to model API after a cold resume, beyond the CLI alone
    Again,
    /// A checkpoint behind a turn
    Save,
    /// POST resume of a session whose files are only in the store
    Restore,
    /// POST fork of a large session
    Fork,
    /// ashd until it has all sandboxes again
    Restart,
    /// A large file over HTTP
    Read,
    /// A workspace as one archive, out and in
    Bundle,
}

/// How much to measure.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Scale {
    /// As much as is promised.
    Full,
    /// A tenth, to see whether it works.
    Quick,
}

impl Scale {
    /// This much, or a tenth of it.
    fn of(self, full: usize) -> usize {
        match self {
            Scale::Full => full,
            Scale::Quick => full.div_ceil(10),
        }
    }

    /// So much in a workspace, or a tenth of it.
    fn fill(self, full: Fill) -> Fill {
        Fill { files: self.of(full.files), bytes: self.of(full.bytes) }
    }
}

/// What a figure's module says about it.
struct About {
    title: &'static str,
    how: &'static str,
    measure: fn(Scale) -> Result<Outcome>,
}

/// What came out.
#[derive(Default)]
struct Outcome {
    rows: Vec<Row>,
    notes: Vec<String>,
}

impl Name {
    /// All, in the order of the report.
    pub const ALL: [Name; 24] = [
        Name::Turn,
        Name::First,
        Name::Primed,
        Name::Create,
        Name::Claim,
        Name::Delta,
        Name::Burst,
        Name::Streams,
        Name::Idle,
        Name::Events,
        Name::Get,
        Name::List,
        Name::Memory,
        Name::Bridge,
        Name::Density,
        Name::Kept,
        Name::Resume,
        Name::Again,
        Name::Save,
        Name::Restore,
        Name::Fork,
        Name::Restart,
        Name::Read,
        Name::Bundle,
    ];

    /// The word for it.
    pub fn word(self) -> &'static str {
        match self {
            Name::Turn => "turn",
            Name::First => "first",
            Name::Primed => "primed",
            Name::Create => "create",
            Name::Claim => "claim",
            Name::Delta => "delta",
            Name::Burst => "burst",
            Name::Streams => "streams",
            Name::Idle => "idle",
            Name::Events => "events",
            Name::Get => "get",
            Name::List => "list",
            Name::Memory => "memory",
            Name::Bridge => "bridge",
            Name::Density => "density",
            Name::Kept => "kept",
            Name::Resume => "resume",
            Name::Again => "again",
            Name::Save => "save",
            Name::Restore => "restore",
            Name::Fork => "fork",
            Name::Restart => "restart",
            Name::Read => "read",
            Name::Bundle => "bundle",
        }
    }

    fn about(self) -> About {
        match self {
            Name::Turn => turn::ABOUT,
            Name::First => first::ABOUT,
            Name::Primed => primed::ABOUT,
            Name::Create => create::ABOUT,
            Name::Claim => claim::ABOUT,
            Name::Delta => delta::ABOUT,
            Name::Burst => burst::ABOUT,
            Name::Streams => streams::ABOUT,
            Name::Idle => idle::ABOUT,
            Name::Events => events::ABOUT,
            Name::Get => get::ABOUT,
            Name::List => list::ABOUT,
            Name::Memory => memory::ABOUT,
            Name::Bridge => bridge::ABOUT,
            Name::Density => density::ABOUT,
            Name::Kept => kept::ABOUT,
            Name::Resume => resume::ABOUT,
            Name::Again => again::ABOUT,
            Name::Save => save::ABOUT,
            Name::Restore => restore::ABOUT,
            Name::Fork => fork::ABOUT,
            Name::Restart => restart::ABOUT,
            Name::Read => read::ABOUT,
            Name::Bundle => bundle::ABOUT,
        }
    }

    /// Measures it.
    ///
    /// # Errors
    /// When something does not work. That a floor is missed is none.
    pub fn measure(self, scale: Scale) -> Result<Figure> {
        let About { title, how, measure } = self.about();
        let (began, load) = (Instant::now(), machine::load());
        let Outcome { rows, notes } = measure(scale)?;
        let taken = Taken {
            at: Timestamp::now().round(Unit::Second)?.to_string(),
            machine: machine::describe(),
            load: (load, machine::load()),
            nice: machine::nice(),
            seconds: began.elapsed().as_secs(),
        };
        let [name, title, how] = [self.word(), title, how].map(str::to_owned);
        Ok(Figure { name, title, how, rows, notes, taken })
    }
}

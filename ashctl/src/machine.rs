//! Commands about this machine. They can be run without `ashd`.

mod doctor;
mod journal;
mod program;
mod runtime;

mod installed;
mod setup;

pub(crate) use program::{become_fsck, has_ashd, libexec_dir};
pub(crate) use runtime::Shelf;

use serde_json::Value;

use crate::cli::{Common, Machine};
use crate::failure::Failure;
use crate::out::Out;
use crate::systemctl;

/// Where results go, and how.
struct Page {
    out: Out,
    as_json: bool,
}

impl Page {
    /// A sentence for people, a document for programs.
    fn say(&mut self, sentence: &str, document: &Value) -> Result<(), Failure> {
        match self.as_json {
            true => self.out.line(&document.to_string()),
            false => self.out.line(sentence),
        }
    }
}

/// Runs such a command; returns the exit code of success.
pub(crate) async fn run(command: Machine, common: &Common) -> Result<u8, Failure> {
    let (bus, as_json) = (common.bus.as_deref(), common.json);
    let mut page = Page { out: Out::stdout(), as_json };
    let may_ask = !common.no_ask_password;
    let become_systemctl = |verb| systemctl::become_it(verb, systemctl::DAEMON, may_ask);
    match command {
        Machine::Doctor { places } => return doctor::run(&mut page, &places, bus).await,
        Machine::Start => return Err(become_systemctl("start").await),
        Machine::Stop => return Err(become_systemctl("stop").await),
        Machine::Restart => return Err(become_systemctl("restart").await),
        Machine::Config(look) => return Err(program::become_ashd(&look, as_json).await),
        Machine::Restore { directory, check } => {
            return Err(program::become_restore(&directory, check, as_json).await);
        }
        Machine::Logs(options) => return Err(journal::become_it(options, as_json, bus).await),
        Machine::Setup(options) => setup::run(&mut page, &options, bus).await?,
        Machine::Runtime(command) => installed::run(&mut page, command).await?,
    }
    Ok(0)
}

//! Commands about this machine. They can be run without `ashd`.

mod doctor;
mod journal;
mod program;
mod runtime;

mod installed;
mod setup;

pub(crate) use runtime::Shelf;

use serde_json::Value;

use crate::cli::Machine;
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

/// Runs such a command, with the address of the bus and whether to print JSON; returns the exit
/// code of success.
pub(crate) async fn run(
    command: Machine,
    (bus, as_json): (Option<&str>, bool),
) -> Result<u8, Failure> {
    let mut page = Page { out: Out::stdout(), as_json };
    match command {
        Machine::Doctor { places } => return doctor::run(&mut page, &places, bus).await,
        Machine::Start => return Err(systemctl::become_it("start", systemctl::DAEMON)),
        Machine::Stop => return Err(systemctl::become_it("stop", systemctl::DAEMON)),
        Machine::Restart => return Err(systemctl::become_it("restart", systemctl::DAEMON)),
        Machine::Config(look) => return Err(program::become_ashd(&look, as_json)),
        Machine::Logs(options) => return Err(journal::become_it(&options, as_json)),
        Machine::Setup(options) => setup::run(&mut page, &options, bus).await?,
        Machine::Runtime(command) => installed::run(&mut page, command).await?,
    }
    Ok(0)
}

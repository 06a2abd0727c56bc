//! What the environment asks for.

use std::sync::atomic::{AtomicU64, Ordering};

#[cfg(feature = "faults")]
use rustix::process::{Pid, Signal, getpid, kill_process};

use super::Table;

/// What happens at a point.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Deed {
    Kill,
    Error,
    Stall,
}

/// That something happens, once.
#[derive(Debug)]
struct Request {
    name: String,
    /// At which passage, counted from 1.
    at: u64,
    deed: Deed,
    passed: AtomicU64,
}

impl Request {
    /// Reads `NAME[:N][:kill|error|stall]`.
    fn read(table: Table, text: &str) -> Result<Request, String> {
        let (name, rest) = text.split_once(':').unwrap_or((text, ""));
        let (number, deed) = match rest.split_once(':') {
            Some((number, deed)) => (number, deed),
            None if rest.parse::<u64>().is_ok() => (rest, ""),
            None => ("", rest),
        };
        let deed = match deed {
            "" | "kill" => Deed::Kill,
            "error" => Deed::Error,
            "stall" => Deed::Stall,
            other => return Err(format!("{other} is none of kill, error, stall")),
        };
        let at = if number.is_empty() { Ok(1) } else { number.parse() };
        let at = at.ok().filter(|at| *at > 0).ok_or(format!("{number} is no passage"))?;
        if !table.iter().any(|(known, _)| *known == name) {
            return Err(format!("there is no fault point {name}"));
        }
        Ok(Request { name: name.to_owned(), at, deed, passed: AtomicU64::new(0) })
    }

    /// Reads any number of them.
    fn read_all(table: Table, text: &str) -> Result<Vec<Request>, String> {
        let parts = text.split(',').filter(|part| !part.is_empty());
        parts.map(|part| Request::read(table, part)).collect()
    }

    /// What happens at this passage, if something does.
    fn pass(&self, name: &str) -> Option<Deed> {
        let due = self.name == name && self.passed.fetch_add(1, Ordering::SeqCst) + 1 == self.at;
        due.then_some(self.deed)
    }
}

/// Passes a point; an error when it is to fail.
#[cfg(feature = "faults")]
pub(super) fn pass(table: Table, name: &'static str) -> std::io::Result<()> {
    static REQUESTS: std::sync::OnceLock<Vec<Request>> = std::sync::OnceLock::new();
    let requests = REQUESTS.get_or_init(|| {
        let asked = std::env::var("ASH_FAULT").unwrap_or_default();
        Request::read_all(table, &asked).unwrap_or_else(|wrong| refuse(&wrong))
    });
    match requests.iter().find_map(|request| request.pass(name)) {
        None => Ok(()),
        Some(deed) => act(name, deed),
    }
}

#[cfg(feature = "faults")]
fn act(name: &str, deed: Deed) -> std::io::Result<()> {
    match deed {
        Deed::Error => {
            Err(std::io::Error::other(format!("the fault point {name} was asked to fail")))
        }
        Deed::Kill => {
            let itself = getpid();
            if itself == Pid::INIT {
                // The first process of a namespace does not hear what it sends to itself
                // (pid_namespaces(7)). It goes all the same, and everything in there with it.
                std::process::exit(137);
            }
            if let Err(error) = kill_process(itself, Signal::KILL) {
                refuse(&format!("it cannot be killed: {error}"));
            }
            hang()
        }
        Deed::Stall => hang(),
    }
}

#[cfg(feature = "faults")]
fn hang() -> ! {
    loop {
        std::thread::park();
    }
}

/// A test that asks for what there is not must not pass.
#[cfg(feature = "faults")]
pub(super) fn refuse(why: &str) -> ! {
    let _ =
        std::io::Write::write_all(&mut std::io::stderr(), format!("ASH_FAULT: {why}\n").as_bytes());
    std::process::abort()
}

#[cfg(test)]
mod tests {
    use super::*;

    const TABLE: Table = &[("ack.before", "one"), ("ack.after", "two")];

    fn read(text: &str) -> Result<(u64, Deed), String> {
        Request::read(TABLE, text).map(|request| (request.at, request.deed))
    }

    #[test]
    fn what_is_left_out_is_the_first_passage_and_a_kill() {
        assert_eq!(read("ack.before"), Ok((1, Deed::Kill)));
        assert_eq!(read("ack.before:7"), Ok((7, Deed::Kill)));
        assert_eq!(read("ack.before:stall"), Ok((1, Deed::Stall)));
        assert_eq!(read("ack.before:3:error"), Ok((3, Deed::Error)));
        assert_eq!(Request::read_all(TABLE, "ack.before,ack.after:2").unwrap().len(), 2);
        assert_eq!(Request::read_all(TABLE, "").unwrap().len(), 0);
    }

    #[test]
    fn what_there_is_not_is_refused() {
        for wrong in ["ack", "", "ack.before:0", "ack.before:x:kill", "ack.before:1:die"] {
            assert!(read(wrong).is_err(), "{wrong}");
        }
        assert!(Request::read_all(TABLE, "ack.before,ack").is_err());
    }

    #[test]
    fn it_happens_at_that_passage_and_only_then() {
        let request = Request::read(TABLE, "ack.before:2:error").unwrap();
        let passages = ["ack.before", "ack.after", "ack.before", "ack.before"];
        let happened = passages.map(|name| request.pass(name).is_some());
        assert_eq!(happened, [false, false, true, false]);
    }
}

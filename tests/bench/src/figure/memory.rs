//! What the daemon takes.

use anyhow::Result;
use ash_journey::Ash;

use super::{About, Outcome, Scale};
use crate::memory::Memory;
use crate::report::{Row, Unit};
use crate::stage;

pub(super) const ABOUT: About = About {
    title: "Memory of ashd",
    how: "`/proc/<ashd>/smaps_rollup`, resident (RSS): the pages of program and libraries that were \
          touched are in it. Idle: ashd has just started and an agent is deployed, nothing else has \
          happened. With 50 sessions, which the stand-in for the CLI answers: all are live, and each \
          has had a turn of 50 deltas a moment ago, one session after the other, so that the frames \
          of these turns count, which are let go of after five minutes; beside it, what it was before \
          these turns. Each is looked at once, in one run. In the notes: what of it is ashd's alone, \
          and launcher and broker, which are processes of their own, one of each per ashd.",
    measure,
};

const SESSIONS: usize = 50;

fn measure(_scale: Scale) -> Result<Outcome> {
    let ash = stage::stub()?;
    let api = ash.api();
    let idle = Memory::of(ash.pid()?)?;
    let sessions = (0..SESSIONS).map(|_| stage::session(&api)).collect::<Result<Vec<_>>>()?;
    let made = Memory::of(ash.pid()?)?;
    for session in &sessions {
        stage::send(&api, session, "[[deltas 50 64]]", true)?.finish()?;
    }
    let used = Memory::of(ash.pid()?)?;
    let notes = beside(&ash);
    ash.finish()?;
    let row = |what: &str, memory: Memory| Row::plain(what, 1, Unit::Mb, memory.resident);
    let rows = vec![
        row("idle", idle).floor(20.0),
        row("50 sessions", used).floor(30.0),
        row("50 sessions, before their turns", made),
    ];
    let words = |what: &str, memory: Memory| {
        let Memory { proportional, private, .. } = memory;
        format!("ashd {what}: {proportional:.2} MB proportional (PSS), {private:.2} MB private")
    };
    Ok(Outcome { rows, notes: [vec![words("idle", idle), words("with 50", used)], notes].concat() })
}

/// What launcher and broker take.
fn beside(ash: &Ash) -> Vec<String> {
    let words = |pid: u32| {
        let Memory { resident, private, .. } = Memory::of(pid).ok()?;
        let name = ash_journey::process::name(pid);
        Some(format!("{name}: {resident:.2} MB resident, {private:.2} MB private"))
    };
    let found = ["ash-launcher", "ash-broker"].into_iter().flat_map(|name| ash.helpers(name));
    found.filter_map(words).collect()
}

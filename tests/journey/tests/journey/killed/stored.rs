//! The daemon dies in the middle of what it does in an object store: who looks there sees all of something or
//! nothing of it, and the next daemon brings it to its end.

use std::path::Path;

use anyhow::{Result, ensure};
use ash_journey::process::until;
use ash_journey::{Ash, Client as _, Options};
use serde_json::json;

use crate::machines::{checkpoint, files, import, notices_its_loss, shared};
use crate::support::Talk;

/// What makes an object that is sent in parts.
const LARGE: &str = "head -c 20000000 /dev/urandom > noise; sha256sum noise > sum";

/// So many copies that have no name are kept in an object store.
const KEPT: usize = 3;

/// Kills the daemon and starts one that dies at a point.
fn boot_to_die(talk: &mut Talk, fault: &str) -> Result<()> {
    talk.ash.kill9()?;
    ensure!(talk.ash.boot_to_die(fault, &[])?, "{fault} came before the daemon was ready");
    talk.api = talk.ash.api();
    Ok(())
}

/// A daemon dies between the parts of an object, and so early and so late that there is nothing but parts: what
/// was to be sent gets there with the next one. Whatever object store it is.
pub(crate) fn dies_between_parts(options: &Options) -> Result<()> {
    let there = Ash::start(options.clone())?;
    let mut here = Talk::begin(options.clone())?;
    for passage in 1..=2 {
        here.session = here.api.create("hello", json!({}))?;
        here.ask("[[say hello]]")?;
        // Nothing else is to be sent.
        checkpoint(&here.api, &here.session, "before")?;
        boot_to_die(&mut here, &format!("copy.part:{passage}"))?;
        // Nobody waits for the object store; it may die before the turn has ended all the same.
        let _ = here.ask(&here.bash(LARGE));
        here.ash.wait_killed()?;
        here.boot()?;
        until("the turn to have ended", || {
            here.api.session(&here.session).is_ok_and(|session| session["running"] == false)
        })?;
        checkpoint(&here.api, &here.session, "behind")?;
        import(&there.api(), &here.session, 201)?;
        ensure!(there.api().turn_to(&here.session, "resume")? == "active");
        let checked = there.api().exec(&here.session, "sha256sum --check sum")?;
        ensure!(checked.stdout == "noise: OK\n", "passage {passage}: {checked:?}");
        notices_its_loss(&here)?;
    }
    there.finish()?;
    here.ash.finish()
}

#[test]
fn an_object_whose_parts_are_interrupted_gets_there() -> Result<()> {
    let bucket = tempfile::tempdir()?;
    dies_between_parts(&shared(Options::stub(), bucket.path()))
}

/// Has a turn whose copy goes to the object store; true when the daemon has died of it.
fn copy_turn(here: &mut Talk, points: &Path, number: usize) -> Result<bool> {
    let newest = || files(points).ok().and_then(|points| points.into_iter().max());
    let before = newest();
    // It may die before the turn has ended.
    let _ = here.ask(&here.bash(&format!("echo {number} > file")));
    let mut is_dead = false;
    until("a copy of the turn", || {
        is_dead = here.ash.is_dead().unwrap_or(true);
        is_dead || newest() > before
    })?;
    Ok(is_dead)
}

/// The newest copies are there, and so is the one that has a name; those before them go with the next copy.
#[test]
fn copies_that_are_old_go_wherever_that_is_interrupted() -> Result<()> {
    let bucket = tempfile::tempdir()?;
    let options = shared(Options::stub(), bucket.path());
    let mut here = Talk::begin(options.clone())?;
    let points = bucket.path().join(format!("default/sessions/{}/points", here.session));
    for number in 0..KEPT {
        copy_turn(&mut here, &points, number)?;
    }
    checkpoint(&here.api, &here.session, "named")?;
    boot_to_die(&mut here, "copy.pruned")?;
    // The first turn is one too many. What it is copied by may be seen before the daemon dies.
    for number in 0..=KEPT {
        if copy_turn(&mut here, &points, number)? {
            break;
        }
    }
    here.ash.wait_killed()?;
    ensure!(files(&points)?.len() > KEPT, "{:?}", files(&points)?);
    here.boot()?;
    ensure!(!copy_turn(&mut here, &points, 7)?, "a healthy daemon has died");
    until("nothing but the newest copies, and the one that has a name", || {
        files(&points).is_ok_and(|points| points.len() == KEPT + 1)
    })?;
    let there = Ash::start(options)?;
    import(&there.api(), &here.session, 201)?;
    ensure!(there.api().turn_to(&here.session, "resume")? == "active");
    ensure!(there.api().exec(&here.session, "cat file")?.stdout == "7\n");
    there.finish()?;
    here.ash.finish()
}

/// What there is of a session in an object store: whether points, whether history, and how many generations.
fn left(bucket: &Path, session: &str) -> (bool, bool, usize) {
    let dir = bucket.join("default/sessions").join(session);
    let count = |of: &str| files(&dir.join(of)).map_or(0, |files| files.len());
    (count("points") > 0, count("events") > 0, count("owner"))
}

/// Whatever of it is there yet, nobody goes on with it: neither while no daemon removes it, nor later.
#[test]
fn a_purge_that_is_interrupted_is_finished() -> Result<()> {
    let bucket = tempfile::tempdir()?;
    let options = shared(Options::stub(), bucket.path());
    let there = Ash::start(options.clone())?;
    let mut here = Talk::begin(options)?;
    for (fault, expected) in [
        ("purge.buried", (true, true, 2)),
        ("purge.emptied", (false, true, 2)),
        ("purge.emptied:2", (false, false, 2)),
        ("purge.disowned", (false, false, 1)),
    ] {
        here.session = here.api.create("hello", json!({}))?;
        here.ask("[[say hello]]")?;
        checkpoint(&here.api, &here.session, "it")?;
        boot_to_die(&mut here, fault)?;
        // Nobody waits for the object store; it may die before it has answered all the same.
        let _ = here.api.purge(&here.session);
        here.ash.wait_killed()?;
        let now = left(bucket.path(), &here.session);
        ensure!(now == expected, "at {fault}: {now:?}");
        import(&there.api(), &here.session, 404)?;
        here.boot()?;
        until("nothing to be left but that it is nobody's", || {
            left(bucket.path(), &here.session) == (false, false, 1)
        })?;
        for api in [&here.api, &there.api()] {
            import(api, &here.session, 404)?;
        }
    }
    there.finish()?;
    here.ash.finish()
}

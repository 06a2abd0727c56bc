//! In which order checkpoints come into the object store: a copy that is interrupted leaves what a
//! session can go on from.

use anyhow::{Context as _, Result, ensure};
use ash_journey::{Api, Ash, Client, Options};

use crate::backups::{back_up, restore, said, start_over};
use crate::machines::{self, files, import, shared};
use crate::support::Talk;

/// The checkpoints with a name that are older than the newest one, which has none.
const NAMES: [&str; 2] = ["one", "two"];

/// A daemon that has no object store.
const NOWHERE: [(&str, &str); 2] = [("ASH_SNAPSHOT_URL", ""), ("ASH_SNAPSHOT_KEY", "")];

/// Makes the checkpoints, none of which is copied as long as there is no object store, and ends
/// the daemon.
fn make_checkpoints(talk: &mut Talk) -> Result<()> {
    for name in NAMES {
        talk.ask(&talk.bash(&format!("echo {name} > file")))?;
        talk.checkpoint(name)?;
    }
    talk.ask(&talk.bash("echo newest > file"))?;
    ensure!(talk.api.turn_to(&talk.session, "stop")? == "stopped");
    talk.ash.terminate()?;
    Ok(())
}

fn names(api: &Api, session: &str) -> Result<Vec<String>> {
    let path = format!("/api/sessions/{session}/checkpoints");
    let listed = api.call("GET", &path, None)?.expect(200)?;
    let all = listed["checkpoints"].as_array().context("no checkpoints")?;
    let names = all.iter().filter_map(|one| one["name"].as_str());
    let mut names: Vec<_> = names.map(str::to_owned).collect();
    names.sort_unstable();
    Ok(names)
}

/// Another machine imports the session with its newest files, and with these names.
fn goes_on_elsewhere(options: Options, session: &str, expected: &[&str]) -> Result<()> {
    let there = Ash::start(options)?;
    let api = there.api();
    import(&api, session, 201)?;
    ensure!(api.turn_to(session, "resume")? == "active");
    let file = api.exec(session, "cat file")?.stdout;
    ensure!(file == "newest\n", "it went on with {file}");
    let names = names(&api, session)?;
    ensure!(names == expected, "{names:?} in the place of {expected:?}");
    there.finish()
}

/// The newest comes first, then the others, oldest first.
#[test]
fn what_nobody_has_copied_yet_begins_with_the_newest() -> Result<()> {
    for copied in 1..=1 + NAMES.len() {
        let bucket = tempfile::tempdir()?;
        let options = shared(Options::stub(), bucket.path());
        let mut here = Talk::begin(Options::stub())?;
        make_checkpoints(&mut here)?;
        let env: Vec<_> = options.env.iter().map(|(name, text)| (*name, text.as_str())).collect();
        here.ash.boot_to_die(&format!("copy.recorded:{copied}"), &env)?;
        here.ash.wait_killed()?;
        let points = bucket.path().join(format!("default/sessions/{}/points", here.session));
        ensure!(files(&points)?.len() == copied, "{copied}: {:?}", files(&points)?);
        goes_on_elsewhere(options.clone(), &here.session, &NAMES[..copied - 1])
            .with_context(|| format!("behind {copied}"))?;
        here.boot()?;
        here.ash.finish()?;
    }
    Ok(())
}

/// What was there before the backup and behind it is not what the session goes on from.
#[test]
fn what_came_from_a_backup_begins_with_the_newest() -> Result<()> {
    let bucket = tempfile::tempdir()?;
    let options = shared(Options::stub(), bucket.path());
    let mut talk = Talk::begin(options.clone())?;
    let (session, dir) = (talk.session.clone(), talk.ash.scratch().join("backup"));
    talk.ask(&talk.bash("echo before > file"))?;
    machines::checkpoint(&talk.api, &session, "before")?;
    back_up(&talk, &dir)?;
    talk.ask(&talk.bash("echo lost > file"))?;
    machines::checkpoint(&talk.api, &session, "lost")?;
    talk.ash.terminate()?;
    start_over(&talk, 1)?;
    let restored = restore(&talk, &dir, &[])?;
    ensure!(restored.status.success(), "{}", said(&restored));
    talk.ash.boot_with(&NOWHERE)?;
    talk.api = talk.ash.api();
    ensure!(talk.api.turn_to(&session, "resume")? == "active");
    make_checkpoints(&mut talk)?;
    talk.ash.boot_to_die("copy.recorded", &[])?;
    talk.ash.wait_killed()?;
    // What has a name and is there already moves along.
    goes_on_elsewhere(options, &session, &["before"])?;
    talk.ash.boot_with(&NOWHERE)?;
    talk.ash.finish()
}

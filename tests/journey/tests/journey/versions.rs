//! Versions of an agent that come along with sessions to another machine.

use std::fs;

use anyhow::{Context as _, Result, ensure};
use ash_journey::{Ash, Client, Options};
use serde_json::json;

use crate::machines::{checkpoint, import, shared, with_checkpoint};
use crate::support::Talk;

#[test]
fn another_folder_of_the_same_agent_is_refused() -> Result<()> {
    let bucket = tempfile::tempdir()?;
    let options = shared(Options::stub(), bucket.path());
    let here = with_checkpoint(options.clone())?;
    let there = Ash::start(options)?;
    there.api().deploy("hello", &there.folder("hello", "Another prompt.")?)?;
    let refused = || -> Result<()> {
        let refused = import(&there.api(), &here.session, 409)?;
        let text = refused["error"].as_str().unwrap_or_default();
        ensure!(text.starts_with("Agent \"hello\" has other files here in version 1"), "{text}");
        Ok(())
    };
    refused()?;
    // Also when another version is the newest.
    there.api().deploy("hello", &there.folder("hello", "Yet another prompt.")?)?;
    refused()?;
    ensure!(here.api.session(&here.session)?["status"] == "active", "nothing was taken");
    there.api().call("DELETE", "/api/agents/hello", None)?.expect(200)?;
    import(&there.api(), &here.session, 201)?;
    there.finish()?;
    here.ash.finish()
}

/// A machine with a session of each of two versions of an agent, both in the object store.
fn with_two_versions(options: Options) -> Result<(Talk, [String; 2])> {
    let here = Talk::begin(options)?;
    here.ask(&here.bash("echo 1 > file"))?;
    checkpoint(&here.api, &here.session, "it")?;
    let version = here.api.deploy("hello", &here.ash.folder("hello", "Answer at length.")?)?;
    ensure!(version == 2, "{version}");
    let newer = here.api.create("hello", json!({}))?;
    let content = here.bash("echo 2 > file");
    here.api.send(&newer, json!({ "content": content }))?.to_end()?;
    checkpoint(&here.api, &newer, "it")?;
    let sessions = [here.session.clone(), newer];
    Ok((here, sessions))
}

/// Both versions of the agent are there as they were deployed, the newer one is the newest, and both
/// sessions go on.
fn check_two_versions(ash: &Ash, sessions: &[String; 2]) -> Result<()> {
    let api = ash.api();
    let agent = api.call("GET", "/api/agents/hello", None)?.expect(200)?;
    ensure!(agent["agent"]["version"] == 2, "{agent}");
    let folders = ash.data_dir().join("agents/default/hello");
    for (version, prompt) in [("1", "Answer briefly."), ("2", "Answer at length.")] {
        let there = fs::read_to_string(folders.join(version).join("CLAUDE.md"))?;
        ensure!(there == prompt, "version {version} says {there}");
    }
    for (session, text) in sessions.iter().zip(["1\n", "2\n"]) {
        ensure!(api.turn_to(session, "resume")? == "active");
        let shown = api.exec(session, "cat file")?.stdout;
        ensure!(shown == text, "{shown}");
    }
    let found = ash.ctl().json(&["fsck", "--deep"])?;
    ensure!(found["differences"] == json!([]), "{found}");
    Ok(())
}

/// A version comes along beside those that are there, whether it is older or newer.
#[test]
fn sessions_of_two_versions_move_in_any_order() -> Result<()> {
    for order in [[0, 1], [1, 0]] {
        let bucket = tempfile::tempdir()?;
        let options = shared(Options::stub(), bucket.path());
        let (here, sessions) = with_two_versions(options.clone())?;
        let there = Ash::start(options)?;
        for at in order {
            import(&there.api(), &sessions[at], 201)?;
        }
        check_two_versions(&there, &sessions).with_context(|| format!("in order {order:?}"))?;
        let folder = there.folder("hello", "Answer in verse.")?;
        ensure!(there.api().deploy("hello", &folder)? == 3, "it counts on from the newest");
        there.finish()?;
        here.ash.finish()?;
    }
    Ok(())
}

/// What holds for an agent beside its folder is settled here, and not by a version that comes.
#[test]
fn a_newer_version_leaves_the_agents_environment() -> Result<()> {
    let bucket = tempfile::tempdir()?;
    let options = shared(Options::stub(), bucket.path());
    let (here, sessions) = with_two_versions(options.clone())?;
    let there = Ash::start(options)?;
    import(&there.api(), &sessions[0], 201)?;
    let change = json!({ "env": { "OURS": "1" } });
    there.api().call("PATCH", "/api/agents/hello", Some(&change))?.expect(200)?;
    import(&there.api(), &sessions[1], 201)?;
    let agent = there.api().call("GET", "/api/agents/hello", None)?.expect(200)?;
    ensure!(agent["agent"]["version"] == 2, "{agent}");
    ensure!(agent["agent"]["env"]["OURS"].is_string(), "{agent}");
    there.finish()?;
    here.ash.finish()
}

/// The folder of a version is in its place when the daemon dies; another version is known.
#[test]
fn a_version_that_is_interrupted_on_its_way_comes_again() -> Result<()> {
    for [first, second] in [[0, 1], [1, 0]] {
        let bucket = tempfile::tempdir()?;
        let options = shared(Options::stub(), bucket.path());
        let (here, sessions) = with_two_versions(options.clone())?;
        let mut there = Ash::start(options)?;
        import(&there.api(), &sessions[first], 201)?;
        there.kill9()?;
        ensure!(there.boot_to_die("import.agent", &[])?, "it came before the daemon was ready");
        let body = json!({ "sessionId": sessions[second] });
        let asked = there.api().call("POST", "/api/sessions/import", Some(&body));
        ensure!(asked.is_err(), "no version was built");
        there.wait_killed()?;
        there.boot()?;
        import(&there.api(), &sessions[second], 201)?;
        check_two_versions(&there, &sessions).with_context(|| format!("behind {first}"))?;
        there.finish()?;
        here.ash.finish()?;
    }
    Ok(())
}

//! What the model has heard: every prompt once, or once more where the CLI has tried again.

use anyhow::{Context as _, Result, ensure};
use ash_journey::{Api, Ash, Client as _};
use ash_modelapi::Server;
use serde_json::json;

use super::check::{Ended, Turns, turns};
use super::load::{COUNTED, Known, Said};
use crate::support::{bash, times_asked};

/// What is said to the real CLI, for a mark: it leaves the mark, and something that has a checksum.
pub(super) fn prompt(mark: &str, before: &str) -> String {
    let noise = format!("head -c 20000 /dev/urandom > {mark} && sha256sum {mark} >> sums");
    let tool = bash(true, &format!("echo {mark} >> asked && {noise}"));
    format!("said {mark} {before}{tool}[[count {COUNTED} 2ms]]")
}

/// Checks what the model has heard since it was looked at last, when so many of these had been said: once what
/// came to a result, once at most what failed, and nothing else. It may have heard that so often more as the
/// CLI says that it tries again, and as a connection was cut of which nothing had come back. Of a session that
/// is purged there is no history; then whatever was answered counts as told.
pub(super) fn check_heard(
    model: &Server,
    turns: Option<&Turns>,
    (said, looked_at): (&[Said], usize),
    cut_off: usize,
) -> Result<()> {
    for (at, said) in said.iter().enumerate() {
        let is_result = |ended: &Ended| matches!(ended, Ended::Result(_));
        let (is_told, came_to_a_result) = match turns {
            Some(turns) => {
                let its = turns.iter().find(|(prompt, _)| *prompt == said.prompt);
                (its.is_some(), its.is_some_and(|(_, ended)| is_result(ended)))
            }
            None => (true, said.seen.iter().any(|frame| frame.name == "turn_complete")),
        };
        let tries = said.seen.iter().filter(|frame| frame.data["subtype"] == "api_retry");
        let is_new = at >= looked_at;
        let least = usize::from(is_new && came_to_a_result);
        let most = usize::from(is_new && is_told) * (1 + cut_off + tries.count());
        let heard = times_asked(model, &said.prompt);
        let fits = (least..=most).contains(&heard);
        ensure!(fits, "{} was heard {heard} times, not {least} to {most}", said.mark);
    }
    Ok(())
}

/// The same of all that clients know of.
pub(super) fn check_all_heard(ash: &Ash, known: &Known, cut_off: usize) -> Result<()> {
    let api = ash.api();
    for facts in &known.sessions {
        let Some(id) = &facts.session else { continue };
        let is_gone = api.call("GET", &format!("/api/sessions/{id}"), None)?.status == 404;
        let history = if is_gone { None } else { Some(turns(&api, id)?) };
        let heard = check_heard(ash.model(), history.as_ref(), (&facts.said[..], 0), cut_off);
        heard.with_context(|| format!("session {id}"))?;
    }
    Ok(())
}

/// Checks that there is what each prompt has left in the workspace, and that it is whole.
pub(super) fn check_sums(api: &Api, session: &str) -> Result<()> {
    let checked = api.exec(session, "sha256sum --quiet --check sums && wc -l < sums")?;
    ensure!(checked.code == 0, "{checked:?}");
    let count = turns(api, session)?.len();
    ensure!(checked.stdout.trim() == count.to_string(), "{count} turns: {checked:?}");
    Ok(())
}

/// Ends a conversation with the real CLI. It has told the model all of it, in order and once.
pub(super) fn part(api: &Api, session: &str) -> Result<()> {
    let turns = turns(api, session)?;
    let turn = api.send(session, json!({ "content": "[[history]]" }))?.to_end()?;
    let told = turn.text();
    let marks = told.lines().filter_map(|line| line.strip_prefix("user: said "));
    let marks: Vec<_> = marks.filter_map(|line| line.split(' ').next()).collect();
    let said = turns.iter().filter_map(|(prompt, _)| prompt.split(' ').nth(1));
    ensure!(marks == said.collect::<Vec<_>>(), "{told}");
    api.purge(session)
}

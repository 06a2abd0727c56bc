//! The daemon dies while an archive comes into a workspace: each file is there whole or as it was, what is saved
//! is what is there, and whoever sends it again has all of it.

use std::fs;
use std::path::Path;

use anyhow::{Context as _, Result, ensure};
use ash_journey::Options;
use serde_json::json;

use crate::support::Talk;
use crate::writing::packed;

/// What the archive holds: a file, one in a directory that is there, and one in directories that are not, at
/// first.
const FILES: [&str; 3] = ["file", "kept/file", "new/deep/file"];

/// What the files say; nothing of those that are not there.
fn said(workspace: &Path) -> [Option<String>; 3] {
    FILES.map(|file| fs::read_to_string(workspace.join(file)).ok())
}

/// Sends an archive whose files say this, to a daemon that dies when so many of them are in the workspace.
fn dies_at(talk: &mut Talk, archive: &[u8], passage: usize) -> Result<()> {
    talk.ash.kill9()?;
    let is_ready = talk.ash.boot_to_die(&format!("merge.moved:{passage}"), &[])?;
    ensure!(is_ready, "it came before the daemon was ready");
    talk.api = talk.ash.api();
    ensure!(send(talk, archive).is_err(), "not so many were moved");
    talk.ash.wait_killed()?;
    talk.boot()
}

fn send(talk: &Talk, archive: &[u8]) -> Result<()> {
    let gzip = [("content-type", "application/gzip")];
    talk.raw(("POST", "workspace"), &gzip, archive)?.expect(200).map(drop)
}

/// What is saved is what is there.
fn check_saved(talk: &Talk, sessions: &Path) -> Result<()> {
    let child = talk.fork(json!({}))?;
    let [here, there] =
        [&talk.session, &child].map(|session| said(&sessions.join(session).join("workspace")));
    ensure!(here == there, "saved: {there:?}, and there: {here:?}");
    talk.api.purge(&child)
}

#[test]
fn an_archive_that_is_half_in_is_sent_again() -> Result<()> {
    let mut talk = Talk::begin(Options::stub())?;
    talk.ask(&talk.bash("mkdir kept; echo mine > kept/mine"))?;
    let sessions = talk.ash.data_dir().join("sessions");
    let workspace = sessions.join(&talk.session).join("workspace");
    let scratch = tempfile::tempdir()?;
    for passage in 1..=FILES.len() {
        let (before, text) = (said(&workspace), format!("of {passage}"));
        for file in FILES {
            let path = scratch.path().join(file);
            fs::create_dir_all(path.parent().context("it lies in the directory")?)?;
            fs::write(path, &text)?;
        }
        let archive = packed(scratch.path(), &[])?;
        dies_at(&mut talk, &archive, passage)?;
        let half = said(&workspace);
        let is_new = |file: &Option<String>| file.as_ref() == Some(&text);
        let is_whole = |(old, now): (&Option<String>, &Option<String>)| is_new(now) || old == now;
        ensure!(before.iter().zip(&half).all(is_whole), "{half:?} behind {before:?}");
        ensure!(half.iter().map(is_new).filter(|new| *new).count() == passage, "{half:?}");
        check_saved(&talk, &sessions).with_context(|| format!("behind {passage}"))?;
        send(&talk, &archive)?;
        ensure!(said(&workspace).iter().all(is_new), "{:?}", said(&workspace));
        check_saved(&talk, &sessions)?;
        let found = talk.ash.ctl().json(&["fsck", "--deep"])?;
        ensure!(found["differences"] == json!([]), "{found}");
    }
    ensure!(talk.sh("cat kept/mine")? == "mine");
    ensure!(talk.ask("[[say still here]]")? == "still here");
    talk.ash.finish()
}

//! What an agent has written can be listed and read, while it works and when it has ended.

use anyhow::{Result, ensure};
use ash_journey::{Client, Options};

use crate::support::Talk;

#[test]
fn files_are_listed_and_read_in_every_state() -> Result<()> {
    let talk = Talk::begin(Options::stub())?;
    talk.ask(&talk.bash(
        "mkdir -p a .cache node_modules; echo hello > a/note.txt; echo x > node_modules/x; \
         ln -s /etc/passwd link; echo kept > Cargo.lock; echo c > .cache/c",
    ))?;
    let base = format!("/api/sessions/{}/files", talk.session);
    let names = |query: &str| -> Result<(Vec<String>, String)> {
        let listed = talk.api.call("GET", &format!("{base}{query}"), None)?.expect(200)?;
        let files = listed["files"].as_array().cloned().unwrap_or_default();
        let mut names: Vec<_> =
            files.iter().filter_map(|file| file["path"].as_str().map(str::to_owned)).collect();
        names.sort();
        Ok((names, listed["source"].as_str().unwrap_or_default().to_owned()))
    };
    let all = [".cache/c", "CLAUDE.md", "Cargo.lock", "a/note.txt"].map(str::to_owned);
    for state in ["active", "paused", "ended"] {
        match state {
            "paused" => drop(talk.api.turn_to(&talk.session, "stop")?),
            "ended" => drop(talk.api.turn_to(&talk.session, "end")?),
            _ => {}
        }
        let source = if state == "ended" { "snapshot" } else { "sandbox" };
        ensure!(names("")? == (all.to_vec(), source.to_owned()), "{state}: {:?}", names("")?);
        ensure!(names("?includeHidden=false")?.0 == all[1..], "{state}");
        let read = talk.api.call("GET", &format!("{base}/a/note.txt"), None)?;
        ensure!((read.status, read.text().as_str()) == (200, "hello\n"), "{state}");
        let json = talk.api.call("GET", &format!("{base}/a/note.txt?format=json"), None)?;
        let json = json.expect(200)?;
        ensure!(json["content"] == "hello\n" && json["source"] == source, "{state}: {json}");
        let part =
            talk.api.with("range", "bytes=1-3").call("GET", &format!("{base}/a/note.txt"), None)?;
        ensure!((part.status, part.text().as_str()) == (206, "ell"), "{state}: {}", part.status);
        for (path, status) in [
            ("link", 404),
            ("nothing", 404),
            ("a", 400),
            ("../../../etc/passwd", 400),
            ("a/%00", 400),
        ] {
            let refused = talk.api.call("GET", &format!("{base}/{path}"), None)?;
            let fits = refused.status == status || (status == 404 && refused.status == 400);
            ensure!(
                fits && !refused.text().contains("root:"),
                "{state} {path}: {}",
                refused.status
            );
        }
    }
    let stranger = "/api/sessions/3f0c6a52-0c3e-4b1e-9a57-2f1f0e9d8c7b/files";
    talk.api.call("GET", stranger, None)?.expect(404)?;
    talk.ash.finish()
}

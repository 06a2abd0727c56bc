//! Files that are given to a conversation.

use anyhow::{Context as _, Result, ensure};
use ash_journey::{Client, Options, process};
use serde_json::{Value, json};

use crate::support::Talk;

impl Talk {
    fn attach(&self, body: &Value, status: u16) -> Result<Value> {
        self.api.call("POST", &self.path("attachments"), Some(body))?.expect(status)
    }

    fn attached(&self) -> Result<Vec<Value>> {
        let listed = self.api.call("GET", &self.path("attachments"), None)?.expect(200)?;
        Ok(listed["attachments"].as_array().cloned().unwrap_or_default())
    }
}

#[test]
fn what_is_attached_is_kept_and_laid_into_the_workspace() -> Result<()> {
    let mut talk = Talk::begin(Options::stub())?;
    let message = "3f0c6a52-0c3e-4b1e-9a57-2f1f0e9d8c7b";
    let note = json!({ "filename": "dir/../note.txt", "content": "b25l", "mimeType": "text/plain",
        "messageId": message });
    let first = talk.attach(&note, 201)?;
    let shown = &first["attachment"];
    let expected = json!({ "id": shown["id"], "sessionId": talk.session, "filename": "note.txt",
        "mimeType": "text/plain", "size": 3, "messageId": message, "tenantId": "default",
        "createdAt": shown["createdAt"] });
    ensure!(*shown == expected && first["workspacePath"] == "attachments/note.txt", "{first}");

    // A second one of the same name takes no other's place; nor does the agent's own.
    talk.sh("echo own > attachments/note-2.txt")?;
    let raw =
        talk.raw(("POST", "attachments?filename=note.txt"), &[("content-type", "")], b"two")?;
    let second = raw.expect(201)?;
    ensure!(second["workspacePath"] == "attachments/note-3.txt", "{second}");
    ensure!(second["attachment"]["mimeType"] == "application/octet-stream", "{second}");
    ensure!(second["attachment"]["messageId"] == "unlinked", "{second}");
    ensure!(
        talk.sh("cd attachments; cat note.txt note-2.txt note-3.txt; echo x >> note.txt")?
            == "oneown\ntwo"
    );

    let id = shown["id"].as_str().context("no id")?.to_owned();
    let path = format!("/api/attachments/{id}");
    for start in [false, true] {
        if start {
            talk.crash()?;
        }
        let read = talk.api.call("GET", &path, None)?;
        ensure!((read.status, read.text().as_str()) == (200, "one"), "{}", read.text());
        ensure!(read.header("content-type") == Some("text/plain"));
        ensure!(read.header("x-content-type-options") == Some("nosniff"));
        let name = read.header("content-disposition").context("no name")?;
        ensure!(name == "attachment; filename*=UTF-8''note.txt", "{name}");
        let part = talk.api.with("range", "bytes=1-").call("GET", &path, None)?;
        ensure!((part.status, part.text().as_str()) == (206, "ne"), "{}", part.text());
        let all = talk.attached()?;
        ensure!(all.len() == 2 && all[0]["id"] == shown["id"], "{all:?}");
    }

    // It outlives its session's end, and goes with its purge.
    talk.api.turn_to(&talk.session, "end")?;
    let late = talk.attach(&note, 201)?;
    ensure!(late["workspacePath"].is_null(), "{late}");
    ensure!(talk.api.call("DELETE", &path, None)?.status == 204);
    ensure!(talk.api.call("DELETE", &path, None)?.status == 404);
    ensure!(talk.api.call("GET", &path, None)?.expect(404)?["error"] == "Attachment not found");
    ensure!(talk.attached()?.len() == 2);
    let kept = talk.ash.data_dir().join("attachments");
    ensure!(std::fs::read_dir(kept.join(&talk.session))?.count() == 2);
    talk.api.purge(&talk.session)?;
    process::until("attachments to go", || {
        std::fs::read_dir(&kept).is_ok_and(|all| all.count() == 0)
    })?;
    talk.ash.finish()
}

#[test]
fn what_cannot_be_attached_leaves_nothing() -> Result<()> {
    let options = Options::stub().config("[session]\nmax_attachment = \"1KiB\"\n");
    let mut talk = Talk::begin(options)?;
    let of = |content: &str, name: &str| json!({ "filename": name, "content": content });
    for (body, status, text) in [
        (of("", "a"), 400, "Empty attachment content"),
        (of(&"AAAA".repeat(400), "a"), 413, "Attachment too large (max 1024 bytes)"),
        (of("b25l", ".."), 400, "filename: must end"),
        (of("b2", "a"), 400, "content: expected base64"),
        (json!({ "content": "b25l" }), 400, "filename: is required"),
    ] {
        let refused = talk.attach(&body, status)?;
        let said = refused["error"].as_str().unwrap_or_default();
        ensure!(said.starts_with(text), "{said} in the place of {text}");
    }
    let large = talk.raw(("POST", "attachments?filename=a"), &[], &[1; 1025])?;
    ensure!(large.status == 413, "{}", large.text());
    ensure!(talk.attached()?.is_empty());
    // What nobody knows of is removed at the next start; what is known stays.
    talk.attach(&of("b25l", "a"), 201)?;
    let kept = talk.ash.data_dir().join("attachments");
    std::fs::write(kept.join(&talk.session).join("stranger"), "x")?;
    std::fs::create_dir(kept.join("3f0c6a52-0c3e-4b1e-9a57-2f1f0e9d8c7b"))?;
    talk.crash()?;
    ensure!(std::fs::read_dir(&kept)?.count() == 1);
    ensure!(std::fs::read_dir(kept.join(&talk.session))?.count() == 1);
    let id = talk.attached()?[0]["id"].as_str().unwrap_or_default().to_owned();
    ensure!(talk.api.call("GET", &format!("/api/attachments/{id}"), None)?.text() == "one");
    // Somebody has put a link where attachments are laid: it is kept, and not followed.
    talk.sh("rm -r attachments; ln -s /etc attachments")?;
    let made = talk.attach(&of("b25l", "passwd"), 201)?;
    ensure!(made["workspacePath"].is_null(), "{made}");
    ensure!(talk.attached()?.len() == 2);
    talk.ash.finish()
}

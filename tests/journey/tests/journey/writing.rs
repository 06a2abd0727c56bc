//! Files of a session are put, removed and sent as a whole from outside, in every state.

use anyhow::{Context as _, Result, ensure};
use ash_journey::http::Answer;
use ash_journey::{Client, Options, process};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};

use crate::support::{Talk, both_engines, counted};

impl Talk {
    pub(crate) fn path(&self, what: &str) -> String {
        format!("/api/sessions/{}/{what}", self.session)
    }

    /// Sends bytes as they are, with further headers.
    pub(crate) fn raw(
        &self,
        (method, what): (&str, &str),
        headers: &[(&str, &str)],
        body: &[u8],
    ) -> Result<Answer> {
        let length = body.len().to_string();
        let mut http = self.api.with("content-length", &length);
        for (name, value) in headers {
            http = http.with(name, value);
        }
        let head = http.head(method, &self.path(what)) + "\r\n";
        http.raw(&[head.as_bytes(), body].concat())?.answer()
    }

    pub(crate) fn put(&self, file: &str, content: &str) -> Result<Answer> {
        self.raw(("PUT", &format!("files/{file}")), &[], content.as_bytes())
    }

    pub(crate) fn read(&self, file: &str) -> Result<Answer> {
        self.api.call("GET", &self.path(&format!("files/{file}")), None)
    }

    fn remove(&self, file: &str) -> Result<Answer> {
        self.api.call("DELETE", &self.path(&format!("files/{file}")), None)
    }

    pub(crate) fn sh(&self, command: &str) -> Result<String> {
        let ran = self.api.exec(&self.session, command)?;
        ensure!(ran.code == 0, "{command}: {}", ran.stderr);
        Ok(ran.stdout.trim().to_owned())
    }

    fn points(&self) -> Result<Vec<Value>> {
        let listed = self.api.call("GET", &self.path("checkpoints"), None)?.expect(200)?;
        Ok(listed["checkpoints"].as_array().cloned().unwrap_or_default())
    }
}

both_engines!(a_file_is_put_and_removed_in_every_state);

fn a_file_is_put_and_removed_in_every_state(options: Options) -> Result<()> {
    let talk = Talk::begin(options)?;
    for state in ["active", "paused", "stopped"] {
        match state {
            "paused" => drop(talk.api.turn_to(&talk.session, "pause")?),
            "stopped" => {
                talk.api.turn_to(&talk.session, "resume")?;
                drop(talk.api.turn_to(&talk.session, "stop")?);
            }
            _ => {}
        }
        let file = format!("deep/{state}/note.txt");
        let made = talk.put(&file, "one")?;
        let tag = made.header("etag").context("no tag")?.to_owned();
        let body = json!({ "path": file, "size": 3, "created": true });
        ensure!((made.status, made.json()) == (201, body), "{state}: {}", made.text());
        let read = talk.read(&file)?;
        ensure!(
            read.text() == "one" && read.header("etag") == Some(&tag),
            "{state}: {}",
            read.text()
        );
        ensure!(talk.put(&file, "two")?.status == 200, "{state}");
        ensure!(talk.put(&format!("gone-{state}"), "x")?.status == 201);
        let gone = talk.remove(&format!("gone-{state}"))?.expect(200)?;
        ensure!(gone == json!({ "path": format!("gone-{state}"), "deleted": true }), "{gone}");
        ensure!(talk.remove(&format!("gone-{state}"))?.status == 404);
    }
    talk.api.turn_to(&talk.session, "resume")?;
    // The agent has what is its own.
    ensure!(talk.sh("cat deep/*/note.txt")? == "twotwotwo");
    talk.sh("echo more >> deep/stopped/note.txt; rm -r deep/active; ! ls gone-*; chmod 700 deep")?;
    ensure!(talk.ask(&talk.bash("cat deep/stopped/note.txt"))?.contains("twomore"));

    talk.api.turn_to(&talk.session, "end")?;
    for refused in [talk.put("x", "y")?, talk.remove("deep/stopped/note.txt")?] {
        ensure!(
            refused.status == 409 && refused.text().contains("has ended"),
            "{}",
            refused.text()
        );
    }
    ensure!(talk.read("deep/stopped/note.txt")?.text() == "twomore\n");
    talk.ash.finish()
}

#[test]
fn a_file_that_was_put_at_rest_is_in_the_next_point() -> Result<()> {
    let mut talk = Talk::begin(Options::stub())?;
    talk.ask("[[say hello]]")?;
    talk.api.turn_to(&talk.session, "stop")?;
    // Behind what is saved by itself.
    let name = json!({ "name": "at rest" });
    talk.api.call("POST", &talk.path("checkpoints"), Some(&name))?.expect(201)?;
    let before = talk.points()?.len();
    for n in 0..20 {
        ensure!(talk.put("file", &n.to_string())?.status < 300);
    }
    // What was put last has settled, and has not made twenty points.
    process::until("the files to be saved", || {
        talk.points().is_ok_and(|points| points.len() > before)
    })?;
    ensure!(talk.points()?.len() == before + 1, "{} of {before}", talk.points()?.len());
    ensure!(talk.put("file", "last")?.status == 200);
    // What has not settled is saved before the daemon goes.
    talk.ash.terminate()?;
    std::fs::remove_dir_all(talk.ash.data_dir().join("sessions").join(&talk.session))?;
    talk.boot()?;
    ensure!(talk.read("file")?.text() == "last", "it is read from the point");
    // A file that is put into a session that is in a point only brings its files back first.
    ensure!(talk.put("other", "too")?.status == 201);
    ensure!(talk.read("file")?.header("x-ash-source") == Some("sandbox"));
    talk.api.turn_to(&talk.session, "resume")?;
    ensure!(talk.sh("cat file other")? == "lasttoo");
    talk.ash.finish()
}

#[test]
fn files_are_put_while_a_turn_runs_and_points_are_made() -> Result<()> {
    let talk = Talk::begin(Options::stub())?;
    let mut turn = talk.send("[[count 400 5ms]]")?;
    turn.deltas(5)?;
    for n in 0..10 {
        ensure!(talk.put(&format!("put-{n}"), &n.to_string())?.status == 201);
        let name = json!({ "name": format!("point-{n}") });
        talk.api.call("POST", &talk.path("checkpoints"), Some(&name))?.expect(201)?;
        ensure!(talk.put("count", &n.to_string())?.status < 300);
    }
    let turn = turn.to_end()?;
    ensure!(turn.text() == counted(400) && turn.errors().is_empty(), "{:?}", turn.errors());
    // Each point has what was put before it, and nothing of what was put behind it.
    for n in [0, 4, 9] {
        talk.api
            .call("POST", &talk.path(&format!("checkpoints/point-{n}/restore")), None)?
            .expect(200)?;
        ensure!(talk.read(&format!("put-{n}"))?.status == 200);
        ensure!(talk.read(&format!("put-{}", n + 1))?.status == 404);
        let count = talk.read("count")?;
        let expected = if n == 0 { String::new() } else { (n - 1).to_string() };
        ensure!(count.status == 404 || count.text() == expected, "{}", count.text());
    }
    talk.ash.finish()
}

#[test]
fn conditions_keep_others_changes() -> Result<()> {
    let talk = Talk::begin(Options::stub())?;
    let put = |headers: &[(&str, &str)], content: &str| {
        talk.raw(("PUT", "files/f"), headers, content.as_bytes())
    };
    ensure!(put(&[("if-match", "*")], "x")?.status == 412, "it is not there");
    let made = put(&[("if-none-match", "*")], "one")?;
    ensure!(made.status == 201, "{}", made.text());
    let tag = made.header("etag").context("no tag")?.to_owned();
    ensure!(put(&[("if-none-match", "*")], "x")?.status == 412, "it is there");
    let part = put(&[("content-range", "bytes 3-3/4")], "x")?;
    ensure!(part.status == 400 && talk.read("f")?.text() == "one", "{}", part.text());
    talk.sh("chmod 755 f; echo theirs > f")?;
    let refused = put(&[("if-match", &tag)], "x")?;
    ensure!(
        refused.status == 412 && refused.text().contains("changed since"),
        "{}",
        refused.text()
    );
    let gone = talk.raw(("DELETE", "files/f"), &[("if-match", &tag)], b"")?;
    ensure!(gone.status == 412, "{}", gone.text());
    // Until its times would tell of one more change.
    let mut tag = String::new();
    process::until("a strong tag", || {
        let read = talk.read("f").ok();
        tag = read.and_then(|read| Some(read.header("etag")?.to_owned())).unwrap_or_default();
        tag.starts_with('"')
    })?;
    ensure!(put(&[("if-match", &tag)], "two")?.status == 200);
    ensure!(talk.sh("cat f; stat -c %a f")? == "two755", "it can be run as before");
    talk.ash.finish()
}

#[test]
fn what_leads_elsewhere_is_refused() -> Result<()> {
    let talk = Talk::begin(Options::stub())?;
    let outside = talk.ash.scratch().join("outside");
    std::fs::create_dir_all(&outside)?;
    std::fs::write(outside.join("f"), "theirs")?;
    let link = format!(
        "ln -s {0} dir; ln -s {0}/f link; mkdir d; mkfifo p; echo x > file",
        outside.display()
    );
    talk.sh(&link)?;
    for (file, status) in [
        ("dir/f", 409),
        ("dir/new", 409),
        ("file/below", 409),
        ("d", 400),
        ("../x", 400),
        ("%2e%2e/x", 400),
        ("a/%00", 400),
        ("a//b", 400),
        ("%2Fetc/x", 400),
        ("", 400),
    ] {
        let refused = talk.put(file, "ours")?;
        ensure!(refused.status == status, "{file}: {} {}", refused.status, refused.text());
        let refused = talk.remove(file)?;
        ensure!((400..=409).contains(&refused.status), "{file}: {}", refused.status);
    }
    ensure!(talk.read("")?.expect(400)?["error"] == "File path required");
    // Links and pipes are replaced, and nothing is followed.
    for file in ["link", "p"] {
        ensure!(talk.put(file, "ours")?.status == 200, "{file}");
        ensure!(talk.read(file)?.text() == "ours", "{file}");
    }
    ensure!(talk.remove("dir")?.status == 200);
    ensure!(std::fs::read_to_string(outside.join("f"))? == "theirs");
    let refused = talk.remove("d")?;
    ensure!(
        refused.status == 400 && refused.text().contains("recursive=true"),
        "{}",
        refused.text()
    );
    talk.sh("mkdir -p d/e; touch d/e/f")?;
    ensure!(talk.remove("d?recursive=true")?.status == 200);
    talk.sh("! ls d")?;
    let large = talk.api.with("content-length", "99999999999");
    let head = large.head("PUT", &talk.path("files/large")) + "\r\n";
    let refused = large.raw(head.as_bytes())?.answer()?;
    ensure!(refused.status == 413, "{}", refused.text());
    ensure!(talk.read("large")?.status == 404);
    talk.ash.finish()
}

#[test]
fn a_batch_says_of_each_file_what_became_of_it() -> Result<()> {
    let talk = Talk::begin(Options::stub())?;
    let file =
        |path: &str, content: &str| json!({ "path": path, "content": STANDARD.encode(content) });
    let batch = |body: Value| talk.api.call("POST", &talk.path("files"), Some(&body));
    talk.sh("mkdir d")?;
    let files = [
        file("a/b.txt", "hello"),
        file("../x", "x"),
        file("a/.DS_Store", "x"),
        json!({ "path": "bad", "content": "a b=" }),
        file("d", "x"),
        json!({ "content": STANDARD.encode("typed"), "path": "c", "mimeType": "text/plain" }),
    ];
    let done = batch(json!({ "files": files, "targetPath": "sub" }))?.expect(200)?;
    let shown = done["files"].as_array().context("no files")?;
    let errors: Vec<_> = shown.iter().map(|file| file["error"].as_str()).collect();
    let expected = [
        None,
        Some("Invalid file path"),
        Some("Skipped: .DS_Store"),
        Some("expected base64 with padding"),
        None,
        None,
    ];
    ensure!(errors == expected, "{done:#}");
    ensure!(shown[0] == json!({ "path": "a/b.txt", "written": true, "size": 5 }), "{done:#}");
    ensure!(talk.sh("cat sub/a/b.txt sub/c")? == "hellotyped");
    let done = batch(json!({ "files": [file("d", "x")] }))?.expect(200)?;
    ensure!(done["files"][0]["error"] == "Path is not a file", "{done:#}");
    let many: Vec<_> = (0..501).map(|n| file(&n.to_string(), "x")).collect();
    for (body, text) in [
        (json!({}), "files: is required"),
        (json!({ "files": [] }), "files: expected 1 to 500 files"),
        (json!({ "files": many }), "expected 1 to 500 files"),
        (json!({ "files": [{ "path": "x" }] }), "files[0].content: is required"),
        (json!({ "files": [{ "path": 5, "content": "" }] }), "expected a string"),
        (json!({ "files": [5] }), "expected an object"),
        (json!({ "files": [file("x", "x")], "targetPath": "../.." }), "targetPath: Invalid"),
    ] {
        let refused = batch(body)?.expect(400)?;
        let said = refused["error"].as_str().unwrap_or_default().to_owned();
        ensure!(said.contains(text), "{said} in the place of {text}");
    }
    ensure!(batch(json!({ "files": [file("0", "x")], "targetPath": "." }))?.status == 200);
    ensure!(talk.read("0")?.text() == "x" && talk.read("1")?.status == 404);
    talk.ash.finish()
}

/// Lists what an archive holds, as tar sees it.
fn listed(archive: &[u8]) -> Result<Vec<String>> {
    let file = tempfile::NamedTempFile::new()?;
    std::fs::write(file.path(), archive)?;
    let output = std::process::Command::new("tar").arg("-tzf").arg(file.path()).output()?;
    ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let text = String::from_utf8(output.stdout)?;
    let mut names: Vec<_> = text.lines().map(str::to_owned).collect();
    names.sort();
    Ok(names)
}

/// What tar makes of a directory.
pub(crate) fn packed(dir: &std::path::Path, more: &[&str]) -> Result<Vec<u8>> {
    let mut tar = std::process::Command::new("tar");
    let output = tar.args(more).arg("-C").arg(dir).args(["-cz", "."]).output()?;
    ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    Ok(output.stdout)
}

#[test]
fn a_workspace_goes_out_and_comes_in_as_one() -> Result<()> {
    let mut talk = Talk::begin(Options::stub())?;
    let make = "mkdir -p a/.git b venv; echo one > a/file; chmod 755 a/file; echo x > a/.git/x; \
                ln -s /usr/bin/env venv/python; ln -s file a/link; echo K=V > .env; \
                head -c 3000000 /dev/urandom > b/noise; sha256sum b/noise > sum; mkfifo pipe";
    talk.ask(&talk.bash(make))?;
    let name = json!({ "name": "one" });
    talk.api.call("POST", &talk.path("checkpoints"), Some(&name))?.expect(201)?;
    talk.sh("echo two > a/file")?;
    let get = |talk: &Talk, query: &str| {
        talk.api.call("GET", &talk.path(&format!("workspace{query}")), None)
    };
    let live = get(&talk, "")?;
    ensure!(live.header("content-type") == Some("application/gzip"));
    let name = format!("attachment; filename=\"{}.tar.gz\"", talk.session);
    ensure!(live.header("content-disposition") == Some(&name), "{:?}", live.headers);
    ensure!(live.header("x-ash-source") == Some("sandbox"));
    let usual = ["CLAUDE.md", "a/", "a/file", "a/link", "b/", "b/noise", "sum"];
    ensure!(listed(&live.body)? == usual, "{:?}", listed(&live.body)?);
    let all = get(&talk, "?all=true")?;
    let whole = listed(&all.body)?;
    for name in [".env", "a/.git/x", "venv/python"] {
        ensure!(whole.iter().any(|there| there == name), "{name} is not in {whole:?}");
    }
    let point = get(&talk, "?all=true&checkpoint=one")?;
    ensure!(listed(&point.body)? == whole && point.header("x-ash-source") == Some("snapshot"));
    ensure!(get(&talk, "?checkpoint=none")?.status == 404);
    ensure!(get(&talk, "?all=yes")?.status == 400);

    // What went out comes into another session, as it is and in JSON.
    let first = talk.session.clone();
    for (state, archive) in [("live", &all.body), ("stopped", &point.body)] {
        comes_in(&mut talk, state, archive)?;
    }
    talk.session = first;
    talk.api.turn_to(&talk.session, "end")?;
    ensure!(listed(&get(&talk, "")?.body)? == usual);
    let refused = talk.raw(("POST", "workspace"), &GZIP, &all.body)?;
    ensure!(refused.status == 409, "{}", refused.text());
    talk.ash.finish()
}

const GZIP: [(&str, &str); 1] = [("content-type", "application/gzip")];

/// Lays an archive into a session of its own: as it is into one that is live, in JSON into one that
/// is stopped.
fn comes_in(talk: &mut Talk, state: &str, archive: &[u8]) -> Result<()> {
    talk.session = talk.api.create("hello", json!({}))?;
    talk.sh("mkdir -p a; echo kept > a/kept; echo old > a/file; ln -s nowhere sum")?;
    let is_live = state == "live";
    if !is_live {
        talk.api.turn_to(&talk.session, "stop")?;
    }
    let done = if is_live {
        talk.raw(("POST", "workspace"), &GZIP, archive)?.expect(200)?
    } else {
        let body = json!({ "bundle": STANDARD.encode(archive) });
        talk.api.call("POST", &talk.path("workspace"), Some(&body))?.expect(200)?
    };
    let (message, expected) = match is_live {
        true => ("Workspace restored to live sandbox", "two"),
        false => ("Workspace saved as snapshot", "one"),
    };
    ensure!(done["message"] == message, "{done}");
    if !is_live {
        talk.api.turn_to(&talk.session, "resume")?;
    }
    let seen = talk.sh(
        "cat a/kept a/file a/link; stat -c %a a/file; readlink venv/python; sha256sum -c sum; \
         echo mine >> sum",
    )?;
    ensure!(
        seen == format!("kept\n{expected}\n{expected}\n755\n/usr/bin/env\nb/noise: OK"),
        "{state}: {seen}"
    );
    talk.api.purge(&talk.session)
}

#[test]
fn a_hostile_archive_changes_nothing() -> Result<()> {
    let talk = Talk::begin(Options::stub())?;
    talk.sh("mkdir d; echo mine > f; ln -s /etc away")?;
    let scratch = tempfile::tempdir()?;
    let dir = scratch.path();
    std::fs::write(dir.join("f"), "theirs")?;
    std::fs::create_dir(dir.join("z"))?;
    let good = packed(dir, &[])?;
    let mut cut = good.clone();
    cut.truncate(good.len() - 20);
    std::fs::hard_link(dir.join("f"), dir.join("h"))?;
    let hard = packed(dir, &[])?;
    std::fs::remove_file(dir.join("h"))?;
    let upwards = packed(dir, &["--transform", "s,^./z,../z,", "-P"])?;
    let absolute = packed(dir, &["--transform", "s,^./z,/tmp/z,", "-P"])?;
    std::fs::write(dir.join("d"), "a file where a directory is")?;
    let over = packed(dir, &[])?;
    std::fs::remove_file(dir.join("d"))?;
    std::fs::create_dir(dir.join("away"))?;
    std::fs::write(dir.join("away/passwd"), "theirs")?;
    let through = packed(dir, &[])?;
    for (what, archive, status) in [
        ("no gzip", b"once upon a time".to_vec(), 400),
        ("nothing", vec![], 400),
        ("cut", cut, 400),
        ("hard link", hard, 400),
        ("upwards", upwards, 400),
        ("absolute", absolute, 400),
        ("over a directory", over, 409),
        ("through a link", through, 409),
    ] {
        let refused = talk.raw(("POST", "workspace"), &[], &archive)?;
        ensure!(refused.status == status, "{what}: {} {}", refused.status, refused.text());
        ensure!(!refused.text().contains("/tmp") || what == "absolute", "{}", refused.text());
        let seen = talk.sh("cat f; ls -A")?;
        ensure!(seen == "mine\nCLAUDE.md\naway\nd\nf", "{what}: {seen}");
    }
    for body in [json!({}), json!({ "bundle": "" }), json!({ "bundle": "a b" })] {
        let refused = talk.api.call("POST", &talk.path("workspace"), Some(&body))?;
        ensure!(refused.status == 400, "{}", refused.text());
    }
    ensure!(talk.raw(("POST", "workspace"), &[], &good)?.status == 200);
    ensure!(talk.sh("cat f; ls -d z")? == "theirsz");
    // Nothing of what came in is left beside the sessions.
    let sessions = talk.ash.data_dir().join("sessions");
    process::until("what came in to go", || {
        std::fs::read_dir(&sessions).is_ok_and(|all| all.count() == 1)
    })?;
    talk.ash.finish()
}

/// Bytes of memory that the daemon holds at most since it began.
fn peak(talk: &Talk) -> Result<u64> {
    let status = std::fs::read_to_string(format!("/proc/{}/status", talk.ash.pid()?))?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    let kib = line.and_then(|line| line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok());
    Ok(kib.context("no peak")? * 1024)
}

#[test]
fn large_files_do_not_pass_through_memory() -> Result<()> {
    const SIZE: usize = 100 << 20;
    let talk = Talk::begin(Options::stub())?;
    let noise: Vec<u8> = (0..SIZE as u64 / 8)
        .flat_map(|n| n.wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(29).to_le_bytes())
        .collect();
    let before = peak(&talk)?;
    let made = talk.raw(("PUT", "files/noise"), &[], &noise)?;
    ensure!(made.status == 201, "{}", made.text());
    ensure!(talk.read("noise")?.body == noise);
    let archive = talk.api.call("GET", &talk.path("workspace"), None)?;
    ensure!(archive.body.len() > 10 << 20, "{}", archive.body.len());
    talk.sh("rm noise")?;
    ensure!(talk.raw(("POST", "workspace"), &[], &archive.body)?.status == 200);
    ensure!(talk.read("noise")?.body == noise);
    let grown = peak(&talk)?.saturating_sub(before);
    ensure!(grown < 48 << 20, "the daemon has grown by {} MiB", grown >> 20);
    talk.ash.finish()
}

#[test]
fn whoever_goes_away_is_not_waited_for() -> Result<()> {
    let talk = Talk::begin(Options::stub())?;
    talk.sh("head -c 50000000 /dev/urandom > noise")?;
    // A sender that breaks off leaves nothing.
    let http = talk.api.with("content-length", "1000000");
    let head = http.head("PUT", &talk.path("files/half")) + "\r\n";
    drop(http.raw(&[head.as_bytes(), &[7; 500_000]].concat())?);
    // A reader that hangs up ends the work.
    let reading = talk.api.open("GET", &talk.path("workspace"), None)?;
    let (status, _, mut body) = reading.body()?;
    let mut some = [0; 1000];
    std::io::Read::read_exact(&mut body, &mut some)?;
    ensure!(status == 200);
    drop(body);
    let sessions = talk.ash.data_dir().join("sessions");
    process::until("what came in to go", || {
        std::fs::read_dir(&sessions).is_ok_and(|all| all.count() == 1)
    })?;
    ensure!(talk.read("half")?.status == 404);
    ensure!(talk.ask("[[say still here]]")? == "still here");
    talk.ash.finish()
}

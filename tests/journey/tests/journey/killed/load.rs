//! Clients that keep a daemon busy, and what they have been told.

use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread::{self, JoinHandle};

use anyhow::{Context as _, Result, ensure};
use ash_journey::sse::Frame;
use ash_journey::{Api, Ash, Client, process, session_of};
use serde_json::json;

/// How far every message counts.
pub(super) const COUNTED: usize = 20;

/// What was sent as a message, and what came back.
pub(super) struct Said {
    /// A word that only this message has; the agent writes it into the file `asked`.
    pub(super) mark: String,
    pub(super) prompt: String,
    /// Every frame that arrived.
    pub(super) seen: Vec<Frame>,
}

impl Said {
    pub(super) fn is_accepted(&self) -> bool {
        self.seen.iter().any(|frame| frame.name == "session_start")
    }

    pub(super) fn is_done(&self) -> bool {
        self.seen.last().is_some_and(|frame| frame.name == "done")
    }
}

/// What one client knows of its session.
#[derive(Default)]
pub(super) struct Facts {
    /// Answered with 201.
    pub(super) session: Option<String>,
    pub(super) said: Vec<Said>,
    /// What was written into the workspace, and answered.
    pub(super) files: BTreeMap<String, String>,
    /// As last answered; `gone` when it was purged.
    pub(super) status: &'static str,
    /// What was asked for and not answered.
    pub(super) asked: Option<&'static str>,
    /// Whether it is known that what was spoilt is as it was before. Else it may be either.
    pub(super) returned: bool,
    /// Its fork.
    pub(super) fork: Option<String>,
}

/// What the client that deploys knows of its agent: versions, 0 for none.
#[derive(Default)]
pub(super) struct Deployed {
    pub(super) version: u64,
    /// What it may be as well: that was asked for and not answered.
    pub(super) asked: Option<u64>,
}

/// How far clients have come.
#[derive(Default)]
pub(super) struct Progress {
    accepted: AtomicUsize,
    said: AtomicUsize,
}

impl Progress {
    /// How many messages have been accepted.
    fn accepted(&self) -> usize {
        self.accepted.load(Ordering::SeqCst)
    }

    /// How often something was said: a message is one, and so is each frame that has come.
    pub(super) fn said(&self) -> usize {
        self.said.load(Ordering::SeqCst)
    }
}

/// Clients at work.
pub(super) struct Load {
    talkers: Vec<JoinHandle<(Facts, Result<()>)>>,
    deployer: JoinHandle<(Deployed, Result<()>)>,
    progress: Arc<Progress>,
}

/// What all clients know, and why the first of them gave up, if one did.
pub(super) struct Known {
    pub(super) sessions: Vec<Facts>,
    pub(super) deployed: Deployed,
    pub(super) trouble: Option<anyhow::Error>,
}

/// How the life of a session goes on after its conversation.
const ENDS: [&str; 3] = ["stay", "end", "purge"];

impl Load {
    /// Begins: three sessions of the agent `hello`, and deployments of the agent `extra`.
    pub(super) fn begin(ash: &Ash, round: usize) -> Result<Load> {
        let progress = Arc::new(Progress::default());
        let talkers = ENDS.iter().enumerate().map(|(number, end)| {
            let talker = Talker {
                api: ash.api(),
                name: format!("r{round}w{number}"),
                progress: progress.clone(),
                facts: Facts::default(),
                prompt,
            };
            thread::spawn(move || talker.live(end))
        });
        let talkers = talkers.collect();
        let (api, folders) = (ash.api(), [folder(ash, 1)?, folder(ash, 2)?]);
        let deployer = thread::spawn(move || {
            let mut deployed = Deployed::default();
            let outcome = deploy(&api, &folders, &mut deployed);
            (deployed, outcome)
        });
        Ok(Load { talkers, deployer, progress })
    }

    /// Waits until so many messages have been accepted.
    pub(super) fn wait_accepted(&self, count: usize) -> Result<()> {
        process::until("messages to be accepted", || {
            self.progress.accepted() >= count || self.is_over()
        })
    }

    fn is_over(&self) -> bool {
        self.talkers.iter().all(JoinHandle::is_finished)
    }

    /// Waits until every client is done or has been cut off.
    pub(super) fn end(self) -> Result<Known> {
        let mut trouble = None;
        let mut sessions = vec![];
        for talker in self.talkers {
            let (facts, outcome) = talker.join().ok().context("a client has panicked")?;
            sessions.push(facts);
            trouble = trouble.or(outcome.err());
        }
        let (deployed, outcome) = self.deployer.join().ok().context("a client has panicked")?;
        Ok(Known { sessions, deployed, trouble: trouble.or(outcome.err()) })
    }
}

/// A folder of the agent `extra` that says which version it is to become.
fn folder(ash: &Ash, version: u64) -> Result<PathBuf> {
    let folder = ash.folder(&format!("extra-{version}"), "Answer briefly.")?;
    fs::write(folder.join("version"), version.to_string())?;
    Ok(folder)
}

fn deploy(api: &Api, folders: &[PathBuf; 2], deployed: &mut Deployed) -> Result<()> {
    for _ in 0..2 {
        for (folder, version) in folders.iter().zip(1..) {
            deployed.asked = Some(version);
            let made = api.deploy("extra", folder)?;
            ensure!(made == version, "deployed version {made} in the place of {version}");
            *deployed = Deployed { version, asked: None };
        }
        deployed.asked = Some(0);
        api.call("DELETE", "/api/agents/extra", None)?.expect(200)?;
        *deployed = Deployed::default();
    }
    deployed.asked = Some(1);
    api.deploy("extra", &folders[0])?;
    *deployed = Deployed { version: 1, asked: None };
    Ok(())
}

/// What is said to the stand-in for the CLI: it asks the model first, and leaves the mark.
fn prompt(mark: &str) -> String {
    format!("[[model]][[exec echo {mark} >> asked]][[count {COUNTED} 2ms]]")
}

/// A client with a session.
pub(super) struct Talker {
    pub(super) api: Api,
    /// A word that only this one has.
    pub(super) name: String,
    pub(super) progress: Arc<Progress>,
    pub(super) facts: Facts,
    /// What is said, for a mark.
    pub(super) prompt: fn(&str) -> String,
}

impl Talker {
    fn live(mut self, end: &str) -> (Facts, Result<()>) {
        let outcome = self.life(end);
        (self.facts, outcome)
    }

    fn life(&mut self, end: &str) -> Result<()> {
        let session = self.api.create("hello", json!({}))?;
        self.facts.session = Some(session.clone());
        self.facts.status = "active";
        self.say(&session)?;
        self.write(&session)?;
        self.come_back(&session)?;
        self.fork(&session)?;
        self.say(&session)?;
        for (verb, status) in [("pause", "paused"), ("resume", "active"), ("stop", "stopped")] {
            self.turn_to(&session, verb, status)?;
        }
        self.turn_to(&session, "resume", "active")?;
        self.say(&session)?;
        self.write(&session)?;
        self.attach(&session)?;
        match end {
            "end" => self.turn_to(&session, "end", "ended"),
            "purge" => {
                self.facts.asked = Some("gone");
                self.api.purge(&session)?;
                (self.facts.status, self.facts.asked) = ("gone", None);
                Ok(())
            }
            _ => self.say(&session),
        }
    }

    /// Sends a message and reads until the answer is over, or cut off.
    pub(super) fn say(&mut self, session: &str) -> Result<()> {
        let mark = format!("{}m{}", self.name, self.facts.said.len());
        let prompt = (self.prompt)(&mark);
        self.facts.said.push(Said { mark, prompt: prompt.clone(), seen: vec![] });
        self.progress.said.fetch_add(1, Ordering::SeqCst);
        let mut turn = self.api.send(session, json!({ "content": prompt }))?;
        let outcome = loop {
            match turn.next() {
                Ok(Some(frame)) => {
                    let is_accepted = usize::from(frame.name == "session_start");
                    self.progress.accepted.fetch_add(is_accepted, Ordering::SeqCst);
                    self.progress.said.fetch_add(1, Ordering::SeqCst);
                }
                Ok(None) => break Ok(()),
                Err(error) => break Err(error),
            }
        };
        let said = self.facts.said.last_mut().context("just pushed")?;
        said.seen = std::mem::take(&mut turn.seen);
        outcome?;
        ensure!(said.is_done(), "the stream of {} was cut", said.mark);
        Ok(())
    }

    /// Saves, spoils the workspace, and goes back.
    fn come_back(&mut self, session: &str) -> Result<()> {
        let path = format!("/api/sessions/{session}/checkpoints");
        let name = json!({ "name": "kept" });
        self.api.call("POST", &path, Some(&name))?.expect(201)?;
        let spoilt = self.api.exec(session, "rm -f file-* asked; echo spoilt > spoilt")?;
        ensure!(spoilt.code == 0, "{}", spoilt.stderr);
        self.api.call("POST", &format!("{path}/kept/restore"), None)?.expect(200)?;
        self.facts.returned = true;
        Ok(())
    }

    fn fork(&mut self, session: &str) -> Result<()> {
        let path = format!("/api/sessions/{session}/fork");
        let made = self.api.call("POST", &path, None)?.expect(201)?;
        self.facts.fork = Some(session_of(&made)?);
        Ok(())
    }

    fn write(&mut self, session: &str) -> Result<()> {
        let file = format!("file-{}", self.facts.files.len());
        let text = format!("{} {file}\n", self.name);
        if self.facts.files.len().is_multiple_of(2) {
            let written = self.api.exec(session, &format!("echo {} > {file}", text.trim()))?;
            ensure!(written.code == 0, "{}", written.stderr);
        } else {
            // From outside.
            let path = format!("/api/sessions/{session}/files/{file}");
            self.api.open("PUT", &path, Some(text.as_bytes()))?.answer()?.expect(201)?;
        }
        self.facts.files.insert(file, text);
        Ok(())
    }

    /// Attaches two files, and removes one of them.
    fn attach(&mut self, session: &str) -> Result<()> {
        let path = format!("/api/sessions/{session}/attachments");
        let file = json!({ "filename": "note.txt", "content": "aGVsbG8=" });
        self.api.call("POST", &path, Some(&file))?.expect(201)?;
        let made = self.api.call("POST", &path, Some(&file))?.expect(201)?;
        let id = made["attachment"]["id"].as_str().context("the attachment has no id")?.to_owned();
        self.api.call("DELETE", &format!("/api/attachments/{id}"), None)?.expect(204)?;
        Ok(())
    }

    pub(super) fn turn_to(
        &mut self,
        session: &str,
        verb: &str,
        status: &'static str,
    ) -> Result<()> {
        self.facts.asked = Some(status);
        let shown = self.api.turn_to(session, verb)?;
        ensure!(shown == status, "{verb} led to {shown}");
        (self.facts.status, self.facts.asked) = (status, None);
        Ok(())
    }
}

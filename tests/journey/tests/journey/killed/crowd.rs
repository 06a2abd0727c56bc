//! The same at any time: several sessions of the real CLI talk at once, the daemon is killed meanwhile, and the
//! model hears every prompt once.
//!
//! Behind how much of what they say is drawn by lot; a failure tells the seed, and `ASH_TEST_SEED` repeats it.
//! Beside the talk one session is stopped and goes on, and one goes back to a checkpoint.

use std::mem::take;
use std::sync::Arc;
use std::thread::{self, JoinHandle};

use anyhow::{Context as _, Result, ensure};
use ash_journey::leftovers::Snapshot;
use ash_journey::process::until;
use ash_journey::{Ash, Client as _, Options};
use serde_json::json;

use super::check::{check, check_idle, clean, turns};
use super::fresh;
use super::heard::LONG;
use super::load::{Deployed, Facts, Known, Progress, Talker};
use super::prompts::{check_heard, check_sums, part, prompt};
use crate::random::{self, Random};
use crate::support::is_long;

/// So many talk at once.
const SESSIONS: usize = 3;

/// The seed of a run that is to be always the same.
const SEED: u64 = 3;

/// What a session does between two messages.
#[derive(Clone, Copy)]
enum Deed {
    /// It has a further one.
    Talk,
    /// It is stopped and goes on.
    Rest,
    /// It goes back to a checkpoint that was just made.
    GoBack,
}

const DEEDS: [Deed; 3] = [Deed::Talk, Deed::Rest, Deed::GoBack];

/// One of those who talk.
struct Speaker {
    talker: Talker,
    /// Messages of which it was looked at how often they were heard.
    looked_at: usize,
}

struct Crowd {
    ash: Ash,
    before: Snapshot,
    speakers: Vec<Speaker>,
    /// How many there have been.
    met: usize,
    round: usize,
}

impl Speaker {
    /// Begins a conversation.
    fn meet(ash: &Ash, number: usize) -> Result<Speaker> {
        let api = ash.api();
        let session = Some(api.create("hello", json!({}))?);
        let facts = Facts { session, status: "active", ..Facts::default() };
        let name = format!("c{number}");
        let prompt = |mark: &str| prompt(mark, "");
        let talker = Talker { api, name, progress: Arc::default(), facts, prompt };
        Ok(Speaker { talker, looked_at: 0 })
    }

    fn session(&self) -> Result<String> {
        self.talker.facts.session.clone().context("there is no session")
    }

    /// Talks until it is done or cut off.
    fn go_on(mut self, deed: Deed) -> (Speaker, Result<()>) {
        let outcome = self.talk(deed);
        (self, outcome)
    }

    fn talk(&mut self, deed: Deed) -> Result<()> {
        let session = self.session()?;
        self.talker.say(&session)?;
        match deed {
            Deed::Talk => self.talker.say(&session)?,
            Deed::Rest => {
                self.talker.turn_to(&session, "stop", "stopped")?;
                self.talker.turn_to(&session, "resume", "active")?;
            }
            Deed::GoBack => {
                let path = format!("/api/sessions/{session}/checkpoints");
                let name = format!("behind-{}", self.talker.facts.said.len());
                let made = json!({ "name": name });
                self.talker.api.call("POST", &path, Some(&made))?.expect(201)?;
                let path = format!("{path}/{name}/restore");
                self.talker.api.call("POST", &path, None)?.expect(200)?;
            }
        }
        self.talker.say(&session)
    }

    /// Reads on what was cut off. What the CLI says there counts as well.
    fn read_on(&mut self) -> Result<()> {
        let session = self.session()?;
        let Talker { api, facts, .. } = &mut self.talker;
        for said in facts.said.iter_mut().filter(|said| said.is_accepted() && !said.is_done()) {
            let last = said.seen.iter().rev().find_map(|frame| frame.id);
            said.seen.extend(api.follow(&session, last)?.to_end()?.seen.iter().cloned());
        }
        Ok(())
    }

    /// The model has heard what is in the history, and each prompt has left what it should. Then the session is
    /// active.
    fn check(&mut self, ash: &Ash) -> Result<()> {
        let session = self.session()?;
        let Talker { api, facts, .. } = &mut self.talker;
        let history = turns(api, &session)?;
        check_heard(ash.model(), Some(&history), (&facts.said[..], self.looked_at), 0)?;
        check_sums(api, &session)?;
        (facts.status, facts.asked) = ("active", None);
        self.looked_at = facts.said.len();
        Ok(())
    }
}

impl Crowd {
    fn begin(options: Options) -> Result<Crowd> {
        let (ash, before) = fresh(options)?;
        let mut crowd = Crowd { ash, before, speakers: vec![], met: 0, round: 0 };
        crowd.gather()?;
        Ok(crowd)
    }

    /// Has others take the places of those who have talked for long.
    fn gather(&mut self) -> Result<()> {
        for speaker in take(&mut self.speakers) {
            match speaker.talker.facts.said.len() > LONG {
                true => part(&speaker.talker.api, &speaker.session()?)?,
                false => self.speakers.push(speaker),
            }
        }
        while self.speakers.len() < SESSIONS {
            self.met += 1;
            self.speakers.push(Speaker::meet(&self.ash, self.met)?);
        }
        Ok(())
    }

    /// Has all talk at once, and the daemon killed when so much was said; none: it lives. How much was said.
    fn talk(&mut self, until_said: Option<usize>) -> Result<usize> {
        self.round += 1;
        let progress = Arc::new(Progress::default());
        let mut talking: Vec<JoinHandle<(Speaker, Result<()>)>> = vec![];
        for (number, mut speaker) in take(&mut self.speakers).into_iter().enumerate() {
            let deed = DEEDS[(number + self.round) % DEEDS.len()];
            speaker.talker.progress = progress.clone();
            talking.push(thread::spawn(move || speaker.go_on(deed)));
        }
        if let Some(said) = until_said {
            until("so much to be said", || {
                progress.said() >= said || talking.iter().all(JoinHandle::is_finished)
            })?;
            self.ash.kill9()?;
        }
        for talking in talking {
            let (speaker, outcome) = talking.join().ok().context("a client has panicked")?;
            self.speakers.push(speaker);
            // Who is cut off gives up.
            ensure!(outcome.is_ok() || until_said.is_some(), "without a kill: {outcome:?}");
        }
        Ok(progress.said())
    }

    /// Looks with a healthy daemon whether everything is as it has to be, and has each say one thing more.
    fn look(&mut self) -> Result<()> {
        let mut sessions = vec![];
        for speaker in &mut self.speakers {
            speaker.talker.api = self.ash.api();
            speaker.read_on()?;
            sessions.push(take(&mut speaker.talker.facts));
        }
        let known = Known { sessions, deployed: Deployed::default(), trouble: None };
        check(&self.ash, &known, false)?;
        for (speaker, facts) in self.speakers.iter_mut().zip(known.sessions) {
            speaker.talker.facts = facts;
            let checked = speaker.check(&self.ash);
            checked.with_context(|| format!("the session of {}", speaker.talker.name))?;
        }
        self.ash.model().reset();
        for speaker in &mut self.speakers {
            let session = speaker.session()?;
            speaker.talker.say(&session)?;
        }
        check_idle(&self.ash, &self.before, SESSIONS)
    }

    fn finish(self) -> Result<()> {
        for speaker in &self.speakers {
            part(&speaker.talker.api, &speaker.session()?)?;
        }
        clean(&self.ash, &self.before)?;
        self.ash.finish()
    }
}

#[test]
fn a_crowd_is_heard_once_whenever_the_daemon_is_killed() -> Result<()> {
    let name = "killed::crowd::a_crowd_is_heard_once_whenever_the_daemon_is_killed";
    let Some(options) = Options::real(name) else { return Ok(()) };
    let kills = if is_long() { 60 } else { 5 };
    let seed = random::seed(SEED, is_long())?;
    let mut dice = Random::new(seed);
    let mut crowd = Crowd::begin(options)?;
    let all = crowd.talk(None)?;
    crowd.look().context("without a kill")?;
    for kill in 0..kills {
        crowd.gather()?;
        let said = 1 + dice.below(all);
        let told = || format!("ASH_TEST_SEED={seed}, kill {kill}: behind {said} of {all}");
        crowd.talk(Some(said)).with_context(told)?;
        crowd.ash.boot().with_context(told)?;
        crowd.look().with_context(told)?;
    }
    crowd.finish()
}

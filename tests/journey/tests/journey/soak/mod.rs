//! Everything at once, and for long: nothing adds up.
//!
//! Clients of two tenants make sessions, use them, set them aside, fork and purge them. There is room for
//! half of the sandboxes that they want, what nobody uses rests soon, and behind one deed or another
//! something is killed. What every client knows of its sessions is in `known`, and must be so. Behind each
//! round everything is purged, and there is what there was before the first. In the first half of the time
//! the daemon is killed as well; in the second one it is always the same, so that what it does not give back
//! adds up.
//!
//! `ASH_SOAK_MINUTES=N` says how long that goes on, `ASH_TEST_SEED=N` has everybody do the same again, and
//! the same be killed behind as many deeds. What meets depends on the machine.

mod calls;
mod counts;
mod kills;
mod known;
mod shared;
mod speak;
mod user;

use std::collections::BTreeSet;
use std::sync::mpsc;
use std::time::{Duration, Instant};
use std::{env, fs, thread};

use anyhow::{Context as _, Result, anyhow, ensure};
use ash_journey::process::{signal, until};
use ash_journey::{Api, Ash, Client, Options};
use rustix::process::Signal;
use serde_json::json;

use self::counts::Counts;
use self::kills::{Kill, carry_out, plan};
use self::shared::Shared;
use self::user::{Tally, User};
use crate::killed::sessions;
use crate::random::{self, Random};
use crate::support::{add_key, is_long};

/// How long it goes on when nothing is said, and when there is time: no round is begun that would go on for
/// longer.
const QUICK: Duration = Duration::from_secs(100);
const LONG: Duration = Duration::from_secs(10 * 60);

/// The seed of a run that is to be quick.
const SEED: u64 = 1;

/// How many clients there are, and how much each does in a round.
const USERS: usize = 6;
const DEEDS: usize = 12;

/// So few users that a lease that is lost is missed, and so few sandboxes that most sessions have none.
const SLOTS: usize = 26;
const SANDBOXES: usize = 8;

/// The agents of each tenant, and for how many sessions of each a sandbox is kept warm.
const AGENTS: [(&str, u32); 2] = [("warm", 2), ("plain", 0)];

/// The key of the other tenant.
const KEY: &str = "ash_key_of_acme_that_soaks";

/// What has to have happened, as `/health` counts it: else nothing was tried.
const WANTED: [&str; 4] = ["freezes", "evictions", "preWarmHits", "cleared"];

/// A tenant, and its key.
struct Tenant {
    name: &'static str,
    key: String,
}

impl Tenant {
    /// What a file in the folder of its agent says.
    fn whose(&self, agent: &str) -> String {
        format!("{agent} of {}\n", self.name)
    }
}

struct Soak {
    ash: Ash,
    shared: Shared,
    tenants: [Tenant; 2],
    before: Counts,
    /// What has happened of that which has to.
    happened: BTreeSet<&'static str>,
}

fn options() -> Options {
    let uids = 2 + 2 * SLOTS;
    Options::stub().config(&format!(
        "[sandbox]\nmax = {SANDBOXES}\nuid_count = {uids}\n\
         [admission]\nturns = 4\n\
         [pool]\nprewarm = 4\nfreeze_after = \"300ms\"\nreclaim_after = \"600ms\"\nidle_timeout = \"3s\"\n\
         clear_after = \"1s\"\n"
    ))
}

impl Soak {
    /// A daemon that was used once by everybody: what comes with the first session and stays has come.
    fn begin() -> Result<Soak> {
        let mut ash = Ash::start(options())?;
        ash.kill9()?;
        add_key(&ash, "acme", KEY)?;
        ash.boot()?;
        let ours = Tenant { name: "default", key: ash.key().to_owned() };
        let tenants = [ours, Tenant { name: "acme", key: KEY.to_owned() }];
        let (shared, before) = (Shared::new(ash.address()), Counts::look(&ash)?);
        let mut soak = Soak { ash, shared, tenants, before, happened: BTreeSet::new() };
        soak.deploy()?;
        for api in soak.apis() {
            for (agent, _) in AGENTS {
                let session = api.create(agent, json!({}))?;
                api.send(&session, json!({ "content": "[[say hello]]" }))?.to_end()?;
                let path = format!("/api/sessions/{session}/fork");
                api.call("POST", &path, None)?.expect(201)?;
            }
        }
        soak.clear()?;
        until("nothing to be left", || {
            Counts::look(&soak.ash).is_ok_and(|now| now.is_quiet(&soak.before))
        })?;
        soak.before = Counts::look(&soak.ash)?;
        Ok(soak)
    }

    /// A client of each tenant.
    fn apis(&self) -> Vec<Api> {
        let api = |tenant: &Tenant| Api::new(self.ash.address(), &tenant.key);
        self.tenants.iter().map(api).collect()
    }

    fn deploy(&self) -> Result<()> {
        for (tenant, api) in self.tenants.iter().zip(self.apis()) {
            for (agent, warm) in AGENTS {
                let name = format!("{}-{agent}", tenant.name);
                let folder = self.ash.folder(&name, "Answer briefly.")?;
                fs::write(folder.join("whose"), tenant.whose(agent))?;
                let config = json!({ "preWarmCount": warm });
                let body = json!({ "name": agent, "path": folder, "config": config });
                api.call("POST", "/api/agents", Some(&body))?.expect(201)?;
            }
        }
        Ok(())
    }

    /// Everybody does so much, and things are killed, among them the daemon if it may be.
    fn round(&mut self, seed: u64, round: usize, may_die: bool) -> Result<()> {
        self.deploy()?;
        self.shared.forget_kills();
        let dice = |number: usize| {
            let many = seed.wrapping_mul(1_000_003);
            Random::new(many.wrapping_add((100 * round + number) as u64))
        };
        let kills = plan(&mut dice(USERS), USERS * DEEDS, may_die);
        let names = kills.iter().map(Kill::to_string).collect::<Vec<_>>().join(", ");
        let tally = self.play(round, dice, kills).with_context(|| format!("with {names}"))?;
        let killed = self.shared.inside();
        ensure!(tally.failed <= killed, "{} turns failed, with {names}", tally.failed);
        self.check_clear(tally.strangers).with_context(|| format!("behind {names}"))?;
        let memory = Counts::look(&self.ash)?.memory >> 10;
        tell(&format!(
            "round {round}: {} answers, {} refusals, {} failed turns, {memory} KiB; {names}",
            tally.answered, tally.refused, tally.failed
        ));
        Ok(())
    }

    fn play(
        &mut self,
        round: usize,
        dice: impl Fn(usize) -> Random,
        kills: Vec<Kill>,
    ) -> Result<Tally> {
        let Soak { ash, shared, tenants, .. } = self;
        let (shared, tenants) = (&*shared, &*tenants);
        let (deeds, done) = mpsc::channel();
        let (killed, lived) = thread::scope(|scope| {
            let users: Vec<_> = (0..USERS)
                .map(|number| {
                    let own = (format!("r{round}u{number}"), dice(number));
                    let tenant = &tenants[number % tenants.len()];
                    let user = User::new(shared, tenant, own, deeds.clone());
                    scope.spawn(move || user.live(DEEDS))
                })
                .collect();
            drop(deeds);
            let killed = carry_out(kills, ash, shared, &done);
            let panicked = |_| anyhow!("a client has panicked");
            let lived = users.into_iter().map(|user| user.join().map_err(panicked).flatten());
            (killed, lived.collect::<Vec<Result<Tally>>>())
        });
        killed?;
        let mut all = Tally::default();
        for tally in lived {
            all.add(&tally?);
        }
        Ok(all)
    }

    /// Purges what is left, and deletes all agents; returns how many sessions there were.
    fn clear(&self) -> Result<usize> {
        let mut left = 0;
        for api in self.apis() {
            for session in sessions(&api)? {
                api.purge(session["id"].as_str().context("a session has no id")?)?;
                left += 1;
            }
            for (agent, _) in AGENTS {
                let deleted = api.call("DELETE", &format!("/api/agents/{agent}"), None)?;
                ensure!([200, 404].contains(&deleted.status), "{}", deleted.text());
            }
        }
        self.ash.ctl().json(&["snapshot", "collect"])?;
        Ok(left)
    }

    /// Nothing is left of what clients have purged, and no more sessions than they may not know of; and
    /// nothing of these either.
    fn check_clear(&mut self, strangers: usize) -> Result<()> {
        let health = self.ash.api().health()?;
        let has_happened = |what: &&str| health["pool"][*what].as_u64() > Some(0);
        self.happened.extend(WANTED.into_iter().filter(has_happened));
        let left = self.clear()?;
        ensure!(left <= strangers, "{left} sessions are there, and {strangers} may be");
        let difference = || match Counts::look(&self.ash) {
            Ok(now) => now.difference(&self.before),
            Err(error) => format!("{error:#}"),
        };
        until("what there was before", || difference().is_empty()).with_context(difference)?;
        let found = self.ash.ctl().json(&["fsck"])?;
        ensure!(found["differences"] == json!([]), "{found}");
        Ok(())
    }

    /// From now on sessions at rest keep their users.
    fn clears_nothing(&self) -> Result<()> {
        // Read behind what was there at first.
        let file = self.ash.scratch().join("ashd.toml.d/uncleared.toml");
        fs::write(file, "[pool]\nclear_after = \"0s\"\n")?;
        signal(self.ash.pid()?, Signal::HUP)?;
        until("the reload", || self.ash.log().contains("changed: pool.clear_after"))
    }

    /// All that was to be tried was, every lease can be had, and the daemon leaves nothing.
    fn finish(mut self) -> Result<()> {
        let is_missing = |what: &&str| !self.happened.contains(*what);
        let missing: Vec<_> = WANTED.into_iter().filter(is_missing).collect();
        ensure!(missing.is_empty(), "nothing was tried of {missing:?}");
        self.clears_nothing()?;
        let api = self.ash.api();
        api.deploy("plain", &self.ash.agents_dir().join("default-plain"))?;
        for _ in 0..SLOTS {
            let session = api.create("plain", json!({}))?;
            ensure!(api.turn_to(&session, "stop")? == "stopped");
        }
        let body = json!({ "agent": "plain" });
        let refused = api.call("POST", "/api/sessions", Some(&body))?;
        ensure!(refused.status == 503, "there are more users: {}", refused.text());
        self.check_clear(SLOTS)?;
        self.ash.finish()
    }
}

/// How long it goes on.
fn time() -> Result<Duration> {
    match env::var("ASH_SOAK_MINUTES") {
        Ok(minutes) => {
            let minutes: u64 = minutes.parse().context("ASH_SOAK_MINUTES is no number")?;
            Ok(Duration::from_secs(60 * minutes))
        }
        Err(_) => Ok(if is_long() { LONG } else { QUICK }),
    }
}

#[test]
fn nothing_adds_up() -> Result<()> {
    let time = time()?;
    let seed = random::seed(SEED, time > QUICK)?;
    tell(&format!("ASH_TEST_SEED={seed}"));
    soak(seed, time).with_context(|| format!("ASH_TEST_SEED={seed}"))
}

fn soak(seed: u64, time: Duration) -> Result<()> {
    let begun = Instant::now();
    let mut soak = Soak::begin()?;
    let (mut round, mut longest) = (0, Duration::ZERO);
    // One with a daemon that dies and one without, however slow the machine is.
    while round < 2 || begun.elapsed() + longest < time {
        let (at, may_die) = (Instant::now(), round == 0 || begun.elapsed() < time / 2);
        soak.round(seed, round, may_die).with_context(|| format!("round {round}"))?;
        longest = longest.max(at.elapsed());
        round += 1;
    }
    soak.finish()
}

#[expect(clippy::print_stdout, reason = "figures and seeds are for those who run the test")]
fn tell(text: &str) {
    println!("{text}");
}

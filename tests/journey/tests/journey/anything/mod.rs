//! Anything at any time: random calls, crashes and restarts, done to daemons and to a few maps, come to
//! the same.
//!
//! A failure tells its seed and the shortest list of steps that was found to fail as well.
//! `ASH_TEST_SEED=N` repeats a seed, `ASH_TEST_STEPS=FILE` a list of steps. Lists that have failed once
//! are kept in the directory `found` and done again every time.

mod call;
mod files;
mod known;
mod look;
mod machine;
mod model;
mod moving;
mod step;
mod verbs;
mod world;

use std::env;
use std::fs;
use std::time::{Duration, Instant, UNIX_EPOCH};

use anyhow::{Context as _, Result, bail};
use ash_journey::programs;

use self::step::{Op, Step};
use self::world::World;
use crate::killed::points::POINTS;
use crate::random::{self, Random};
use crate::support::is_long;

/// Seeds of a run that is to be quick and always the same, and how many steps each leads to: together
/// they have nearly everything in them.
const QUICK: [u64; 3] = [76, 125, 145];
const STEPS: usize = 14;

/// Likewise when there is time, and for how long.
const LONG: Duration = Duration::from_secs(8 * 60);
const MANY_STEPS: usize = 40;

/// How long to look for a shorter list of steps that fails.
const SHRINKING: Duration = Duration::from_secs(90);

/// Fault points that are passed once by a daemon that is made anew, and by no other, or on behalf of a
/// sandbox that nobody has used for long.
const NEVER: [&str; 8] = [
    "store.migrate.before",
    "store.migrate.after",
    "key.publish",
    "node.publish",
    "idle.frozen",
    "idle.reclaimed",
    "idle.recorded",
    "idle.ended",
];

/// Why steps failed: at which of them, and how.
struct Failure(usize, anyhow::Error);

fn run(steps: &[Step]) -> std::result::Result<(), Failure> {
    let moves = steps.iter().any(|step| matches!(step, Step::Move(..)));
    let mut world = World::new(moves).map_err(|error| Failure(0, error))?;
    for (at, step) in steps.iter().enumerate() {
        let done = world.step(step).with_context(|| format!("at {step}"));
        done.map_err(|error| Failure(at, error))?;
    }
    world.finish().context("behind the last step").map_err(|error| Failure(steps.len(), error))
}

/// Runs steps; when they fail, looks for fewer that do, and tells them.
fn check(steps: Vec<Step>, what: &str) -> Result<()> {
    let Err(failure) = run(&steps) else { return Ok(()) };
    let (first, until) = (format!("{:?}", failure.1), Instant::now() + SHRINKING);
    let (steps, failure) = shortened(steps, failure, until);
    let steps: String = steps.iter().map(|step| format!("{step}\n")).collect();
    bail!("{what} failed: {first}\n\nthe shortest that fails:\n{steps}{:?}", failure.1)
}

fn shortened(mut steps: Vec<Step>, mut failure: Failure, until: Instant) -> (Vec<Step>, Failure) {
    steps.truncate(failure.0 + 1);
    let mut size = steps.len().div_ceil(2);
    while size > 0 {
        let mut at = 0;
        while at < steps.len() && Instant::now() < until {
            let mut fewer = steps.clone();
            fewer.drain(at..(at + size).min(steps.len()));
            match run(&fewer) {
                Err(again) => (steps, failure) = (fewer, again),
                Ok(()) => at += size,
            }
        }
        size /= 2;
    }
    for at in 0..steps.len() {
        for simpler in simpler(&steps[at]) {
            let mut fewer = steps.clone();
            fewer[at] = simpler;
            if Instant::now() < until
                && let Err(again) = run(&fewer)
            {
                (steps, failure) = (fewer, again);
                break;
            }
        }
    }
    (steps, failure)
}

/// Steps that do less than this one.
fn simpler(step: &Step) -> Vec<Step> {
    let (ops, kill) = match step {
        Step::Do(ops, kill) => (ops, kill),
        Step::Move(at, Some(_)) => return vec![Step::Move(*at, None)],
        _ => return vec![],
    };
    let one = |op: &(usize, Op)| Step::Do(vec![op.clone()], *kill);
    let alone = ops.iter().filter(|_| ops.len() > 1).map(one);
    alone.chain(kill.map(|_| Step::Do(ops.clone(), None))).collect()
}

fn of_seed(seed: u64, count: usize) -> Vec<Step> {
    let points = POINTS.iter().map(|(point, _)| *point);
    let points: Vec<_> = points.filter(|point| !NEVER.contains(point)).collect();
    Random::new(seed).steps(count, &points)
}

#[test]
fn random_steps_come_to_what_a_model_says() -> Result<()> {
    let seed = |seed, count| check(of_seed(seed, count), &format!("ASH_TEST_SEED={seed}"));
    if let Some(one) = random::asked()? {
        return seed(one, if is_long() { MANY_STEPS } else { STEPS });
    }
    if !is_long() {
        return QUICK.into_iter().try_for_each(|one| seed(one, STEPS));
    }
    let (until, first) = (Instant::now() + LONG, UNIX_EPOCH.elapsed()?.as_secs());
    let mut count = 0;
    while Instant::now() < until {
        seed(first + count, MANY_STEPS)?;
        count += 1;
    }
    tell(&format!("{count} seeds from {first}, {MANY_STEPS} steps each"));
    Ok(())
}

#[test]
fn steps_that_failed_once_do_not_any_more() -> Result<()> {
    let read = |text: String| -> Result<Vec<Step>> {
        text.lines().filter(|line| !line.starts_with('#')).map(str::parse).collect()
    };
    if let Some(path) = env::var_os("ASH_TEST_STEPS") {
        return check(read(fs::read_to_string(path)?)?, "the file");
    }
    let found = programs::repository().join("tests/journey/tests/journey/anything/found");
    for entry in fs::read_dir(found)? {
        let path = entry?.path();
        let steps = read(fs::read_to_string(&path)?)?;
        run(&steps).map_err(|failure| failure.1).with_context(|| path.display().to_string())?;
    }
    Ok(())
}

#[expect(clippy::print_stdout, reason = "figures are for those who run the test")]
fn tell(text: &str) {
    println!("{text}");
}

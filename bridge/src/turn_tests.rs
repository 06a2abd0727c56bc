//! The state machine against a model of the CLI, and against nonsense.

use std::collections::VecDeque;

use proptest::prelude::*;
use serde_json::value::RawValue;

use super::*;

fn turn(id: &str) -> Turn {
    Turn { id: id.to_owned(), content: RawValue::from_string("\"hi\"".to_owned()).unwrap() }
}

/// Everything that happened, short enough to compare.
fn short(effects: &[Effect]) -> Vec<String> {
    let one = |effect: &Effect| match effect {
        Effect::Forward => "line".to_owned(),
        Effect::Write(turn) => format!("write {}", turn.id),
        Effect::Interrupt => "interrupt".to_owned(),
        Effect::Kill(_) => "kill".to_owned(),
        Effect::Notice(Notice::TurnBegan { turn }) => format!("began {turn}"),
        Effect::Notice(Notice::TurnEnded { turn, outcome }) => format!("ended {turn} {outcome:?}"),
        Effect::Notice(Notice::SelfTurnBegan) => "own began".to_owned(),
        Effect::Notice(Notice::SelfTurnEnded) => "own ended".to_owned(),
        Effect::Notice(other) => format!("{other:?}"),
    };
    effects.iter().map(one).collect()
}

struct Scene {
    turns: Turns,
    now: Millis,
}

impl Scene {
    fn ready() -> Scene {
        let mut scene = Scene { turns: Turns::default(), now: 0 };
        scene.turns.starting(0, &mut Vec::new());
        scene.turns.ready(0);
        scene
    }

    fn says(&mut self, marks: &[Mark<'_>]) -> Vec<String> {
        let mut out = Vec::new();
        marks.iter().for_each(|mark| self.turns.line(mark, self.now, &mut out));
        short(&out).into_iter().filter(|effect| effect != "line").collect()
    }

    fn submit(&mut self, id: &str) -> Vec<String> {
        let mut out = Vec::new();
        self.turns.submit(turn(id), self.now, &mut out);
        short(&out)
    }

    fn after(&mut self, millis: Millis) -> Vec<String> {
        let mut out = Vec::new();
        self.now += millis;
        self.turns.tick(self.now, &mut out);
        short(&out)
    }

    fn interrupt(&mut self) -> (Interrupted, Vec<String>) {
        let mut out = Vec::new();
        let met = self.turns.interrupt(self.now, &mut out);
        (met, short(&out))
    }
}

const OURS: Mark<'_> = Mark::Result { own: false };
const ITS_OWN: Mark<'_> = Mark::Result { own: true };

fn replay(id: &'static str) -> Mark<'static> {
    Mark::Replay(id.into())
}

#[test]
fn an_ordinary_turn() {
    let mut scene = Scene::ready();
    assert_eq!(scene.submit("a"), ["began a", "write a"]);
    let marks = [Mark::Running, Mark::Init, replay("a"), OURS, Mark::Idle];
    assert_eq!(scene.says(&marks), ["ended a Result"]);
    assert_eq!(scene.turns.state(), CliState::Idle);
}

#[test]
fn a_slash_command_has_no_replay() {
    let mut scene = Scene::ready();
    scene.submit("a");
    assert_eq!(scene.says(&[Mark::Running, Mark::Init, OURS]), ["ended a Result"]);
}

#[test]
fn the_next_prompt_waits_for_idle() {
    let mut scene = Scene::ready();
    scene.submit("a");
    scene.says(&[Mark::Init, replay("a"), OURS]);
    assert!(scene.submit("b").is_empty());
    assert_eq!(scene.says(&[Mark::Idle]), ["began b", "write b"]);
}

#[test]
fn a_cli_that_never_says_idle_gets_its_prompt_all_the_same() {
    let mut scene = Scene::ready();
    scene.submit("a");
    scene.says(&[Mark::Init, replay("a"), OURS]);
    scene.submit("b");
    assert!(scene.after(SETTLE - 1).is_empty());
    assert_eq!(scene.after(1), ["began b", "write b"]);
}

#[test]
fn a_turn_of_its_own_right_after_ours_holds_the_next_prompt() {
    let mut scene = Scene::ready();
    scene.submit("a");
    scene.says(&[Mark::Running, Mark::Init, replay("a"), OURS]);
    scene.submit("b");
    assert_eq!(scene.says(&[Mark::TaskNotification, Mark::Init]), ["own began"]);
    assert!(scene.after(10 * SETTLE).is_empty());
    assert_eq!(scene.says(&[ITS_OWN, Mark::Idle]), ["own ended", "began b", "write b"]);
}

#[test]
fn a_prompt_written_as_its_own_turn_begins_gets_its_own_result() {
    let mut scene = Scene::ready();
    scene.submit("a");
    let marks = [Mark::Running, Mark::TaskNotification, Mark::Init, ITS_OWN];
    assert_eq!(scene.says(&marks), ["own began", "own ended"]);
    assert_eq!(scene.says(&[Mark::Init, replay("a"), OURS, Mark::Idle]), ["ended a Result"]);
}

#[test]
fn a_prompt_taken_into_its_own_turn_ends_with_it() {
    let mut scene = Scene::ready();
    scene.submit("a");
    scene.says(&[Mark::Running, Mark::TaskNotification, Mark::Init]);
    assert_eq!(scene.says(&[replay("a"), ITS_OWN]), ["own ended", "ended a Result"]);
}

#[test]
fn a_result_that_was_thrown_away_does_not_hang_the_turn() {
    let mut scene = Scene::ready();
    scene.submit("a");
    assert_eq!(scene.says(&[Mark::Running, Mark::Init, Mark::Idle]), ["ended a NoResult"]);
}

#[test]
fn a_prompt_that_is_never_taken_up_costs_the_cli_its_life() {
    let mut scene = Scene::ready();
    scene.submit("a");
    assert!(scene.after(LOST - 1).is_empty());
    assert_eq!(scene.after(1), ["kill"]);
}

#[test]
fn an_interrupt_that_is_not_obeyed_kills() {
    let mut scene = Scene::ready();
    assert_eq!(scene.interrupt(), (Interrupted::Nothing, vec![]));
    scene.submit("a");
    scene.says(&[Mark::Running, Mark::Init]);
    assert_eq!(scene.interrupt(), (Interrupted::Running, vec!["interrupt".to_owned()]));
    assert_eq!(scene.after(PATIENCE), ["kill"]);
}

#[test]
fn an_interrupt_before_the_turn_is_said_again_when_it_begins() {
    let mut scene = Scene::ready();
    scene.submit("a");
    scene.interrupt();
    assert_eq!(scene.says(&[Mark::Running, Mark::Init]), ["interrupt"]);
    assert_eq!(scene.says(&[replay("a"), OURS, Mark::Idle]), ["ended a Result"]);
    assert_eq!(scene.turns.deadline(), None);
}

#[test]
fn a_cli_that_starts_gets_its_prompt_at_once_and_all_its_time() {
    let mut scene = Scene { turns: Turns::default(), now: 0 };
    scene.turns.starting(0, &mut Vec::new());
    assert_eq!(scene.submit("a"), ["began a", "write a"]);
    assert_eq!(scene.turns.state(), CliState::Starting);
    assert_eq!(scene.interrupt(), (Interrupted::Running, vec!["interrupt".to_owned()]));
    assert!(scene.after(10 * LOST).is_empty());
    scene.turns.ready(scene.now);
    assert!(scene.after(PATIENCE - 1).is_empty());
    assert_eq!(scene.after(1), ["kill"]);
}

#[test]
fn an_interrupt_of_a_held_turn_drops_it() {
    let mut scene = Scene::ready();
    scene.turns.ending();
    scene.submit("a");
    let ended = vec!["ended a Interrupted".to_owned()];
    assert_eq!(scene.interrupt(), (Interrupted::Held, ended));
    assert_eq!(scene.submit("b"), Vec::<String>::new());
}

#[test]
fn a_held_turn_survives_a_restart_and_a_written_one_does_not() {
    let mut scene = Scene::ready();
    scene.submit("a");
    scene.turns.ending();
    let mut out = Vec::new();
    scene.turns.gone(&mut out);
    assert_eq!(short(&out), ["ended a CliExited"]);
    assert!(scene.submit("b").is_empty());
    let mut out = Vec::new();
    scene.turns.starting(0, &mut out);
    assert_eq!(short(&out), ["began b", "write b"]);
}

#[test]
fn without_a_cli_and_besides_another_turns_are_refused() {
    let mut scene = Scene { turns: Turns::default(), now: 0 };
    assert_eq!(scene.submit("a"), ["ended a Refused"]);
    let mut scene = Scene::ready();
    scene.submit("a");
    assert_eq!(scene.submit("b"), ["ended b Refused"]);
    assert_eq!(scene.turns.turn(), Some("a"));
}

/// What the real CLI was seen to do, as a program: prompts and notifications queue, one turn
/// after the other, a tool call may take a waiting prompt in.
#[derive(Debug, Default)]
struct Model {
    queue: VecDeque<Job>,
    said: VecDeque<(Mark<'static>, Option<String>)>,
    running: bool,
}

#[derive(Clone, Debug)]
enum Job {
    Prompt { id: String, slash: bool },
    Own { takes_in: bool },
}

impl Model {
    fn say(&mut self, mark: Mark<'static>) {
        self.said.push_back((mark, None));
    }

    /// Works off one job. Results carry the ids of the prompts that they answer.
    fn work(&mut self) {
        let Some(job) = self.queue.pop_front() else {
            if std::mem::take(&mut self.running) {
                self.say(Mark::Idle);
            }
            return;
        };
        if !std::mem::replace(&mut self.running, true) {
            self.say(Mark::Running);
        }
        match job {
            Job::Prompt { id, slash } => {
                self.say(Mark::Init);
                if !slash {
                    self.say(Mark::Replay(id.clone().into()));
                }
                self.said.push_back((OURS, Some(id)));
            }
            Job::Own { takes_in } => {
                self.say(Mark::TaskNotification);
                self.say(Mark::Init);
                let taken = match self.queue.front() {
                    Some(Job::Prompt { id, slash: false }) if takes_in => Some(id.clone()),
                    _ => None,
                };
                if let Some(id) = &taken {
                    self.queue.pop_front();
                    self.say(Mark::Replay(id.clone().into()));
                }
                self.said.push_back((ITS_OWN, taken));
            }
        }
    }
}

#[derive(Clone, Debug)]
enum Happening {
    Submit { slash: bool },
    TaskEnds { takes_in: bool },
    CliWorks,
    CliIsHeard,
}

fn happening() -> impl Strategy<Value = Happening> {
    prop_oneof![
        any::<bool>().prop_map(|slash| Happening::Submit { slash }),
        any::<bool>().prop_map(|takes_in| Happening::TaskEnds { takes_in }),
        Just(Happening::CliWorks),
        Just(Happening::CliIsHeard),
        Just(Happening::CliIsHeard),
        Just(Happening::CliIsHeard),
    ]
}

/// The machine and the model, and what went between them.
#[derive(Default)]
struct World {
    turns: Turns,
    cli: Model,
    slashes: Vec<String>,
    effects: Vec<Effect>,
    submitted: usize,
}

impl World {
    fn hear(&mut self) -> Result<(), TestCaseError> {
        let Some((mark, answers)) = self.cli.said.pop_front() else { return Ok(()) };
        let before = self.effects.len();
        self.turns.line(&mark, 0, &mut self.effects);
        let ended = self.effects[before..].iter().find_map(|effect| match effect {
            Effect::Notice(Notice::TurnEnded { turn, outcome }) => Some((turn.clone(), *outcome)),
            _ => None,
        });
        // The heart of it: a turn ends with the result that answers it, and with no other line.
        let expected = answers.map(|id| (id, TurnOutcome::Result));
        prop_assert_eq!(ended, expected, "{:?} in {:?}", mark, self.turns);
        self.deliver(before);
        Ok(())
    }

    /// Hands what was written since `from` to the CLI.
    fn deliver(&mut self, from: usize) {
        for effect in &self.effects[from..] {
            if let Effect::Write(turn) = effect {
                let slash = self.slashes.contains(&turn.id);
                self.cli.queue.push_back(Job::Prompt { id: turn.id.clone(), slash });
            }
        }
    }

    fn step(&mut self, happening: Happening) -> Result<(), TestCaseError> {
        match happening {
            Happening::Submit { slash } if self.turns.turn().is_none() => {
                let id = format!("t{}", self.submitted);
                self.submitted += 1;
                self.slashes.extend(slash.then(|| id.clone()));
                let before = self.effects.len();
                self.turns.submit(turn(&id), 0, &mut self.effects);
                self.deliver(before);
            }
            Happening::Submit { .. } => {}
            Happening::TaskEnds { takes_in } => self.cli.queue.push_back(Job::Own { takes_in }),
            Happening::CliWorks => self.cli.work(),
            Happening::CliIsHeard => self.hear()?,
        }
        Ok(())
    }
}

proptest! {
    #[test]
    fn no_result_is_mistaken_and_no_turn_hangs(happenings in proptest::collection::vec(happening(), 0..200)) {
        let mut world = World::default();
        world.turns.starting(0, &mut world.effects);
        world.turns.ready(0);
        for happening in happenings {
            world.step(happening)?;
        }
        // Let the CLI finish what it has, and everything it said be heard.
        for _ in 0..1000 {
            world.cli.work();
            world.hear()?;
        }
        prop_assert!(world.turns.turn().is_none(), "{:?}", world.turns);
        prop_assert!(!world.turns.runs());
        let began = world.effects.iter().filter(|e| matches!(e, Effect::Notice(Notice::TurnBegan { .. }))).count();
        prop_assert_eq!(began, world.submitted);
    }

    #[test]
    fn whatever_is_said_every_turn_ends_once(choices in proptest::collection::vec((0u8..12, 0u64..20_000), 0..200)) {
        let mut turns = Turns::default();
        let mut out = Vec::new();
        let (mut now, mut submitted, mut lines) = (0, 0, 0);
        for (choice, millis) in choices {
            let marks = [Mark::Init, Mark::Running, Mark::Idle, Mark::TaskNotification, OURS, ITS_OWN, replay("0")];
            now += millis;
            match choice {
                0 => { turns.submit(turn("0"), now, &mut out); submitted += 1 }
                1 => { turns.interrupt(now, &mut out); }
                2 => turns.tick(now, &mut out),
                3 => { turns.starting(now, &mut out); turns.ready(now) }
                4 => turns.gone(&mut out),
                other => { turns.line(&marks[usize::from(other) - 5], now, &mut out); lines += 1 }
            }
        }
        turns.gone(&mut out);
        turns.gone(&mut out);
        let all = short(&out);
        let count = |what: &str| all.iter().filter(|effect| effect.starts_with(what)).count();
        prop_assert_eq!(count("ended"), submitted);
        prop_assert_eq!(count("line"), lines);
        prop_assert_eq!(count("own began"), count("own ended"));
        prop_assert_eq!(count("write"), count("began"));
    }
}

//! What is done: steps as values, as lines of text, and at random.

use std::fmt;
use std::str::FromStr;

use anyhow::{Context as _, Error, Result, bail};

use super::files::FILES;
use crate::random::Random;

/// How many files are written from outside, and how many names checkpoints have: few, so that things
/// meet.
const PLACES: usize = FILES + 2;
const NAMES: usize = 3;

/// How large files are, in bytes: a line, a chunk, a few chunks.
const SIZES: [usize; 4] = [0, 20, 30_000, 400_000];

/// One step.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) enum Step {
    /// Calls for different sessions at the same time; all daemons are killed so many milliseconds
    /// behind their beginning, if a number is given.
    Do(Vec<(usize, Op)>, Option<u64>),
    /// All daemons are ended politely and started again.
    Restart,
    /// All daemons are killed and started again.
    Crash,
    /// All daemons are killed and started again, and die at this passage of a fault point.
    Fault(String, usize),
    /// The agent gets a new version.
    Deploy,
    /// A session goes on on the other machine; all daemons are killed so many milliseconds behind the
    /// beginning, if a number is given.
    Move(usize, Option<u64>),
}

/// One call. Numbers are taken modulo what there is.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) enum Op {
    /// A new session.
    Create,
    /// A message; the agent writes a file of this size, and ends its turn.
    Say(usize, usize),
    /// A message whose turn goes on for a while behind writing a file.
    Begin(usize),
    /// Waits for the end of such a turn.
    Finish,
    /// A message that asks what the agent remembers.
    Recall,
    /// Interrupts.
    Interrupt,
    /// A command writes a file of this size beside the turn.
    Write(usize, usize),
    /// A command removes a file beside the turn.
    Remove(usize),
    /// Sets aside, keeping the sandbox.
    Pause,
    /// Sets aside.
    Stop,
    /// Goes on.
    Resume,
    /// Ends for good.
    End,
    /// Ends and removes everything.
    Purge,
    /// Makes a checkpoint of this name.
    Save(usize),
    /// Removes the checkpoint of this name.
    Forget(usize),
    /// Goes back to the checkpoint of this name.
    Restore(usize),
    /// Goes back to before a message.
    Rewind(usize),
    /// A new session from how this one is now, or from a checkpoint.
    Fork(Option<usize>),
    /// A file of this size is put from outside.
    Put(usize, usize),
    /// A file is removed from outside.
    Delete(usize),
    /// An archive is unpacked, with this file of this size in it, and others.
    Unpack(usize, usize),
    /// A file of this size is attached.
    Attach(usize),
    /// One of those that are attached is removed.
    Detach(usize),
}

impl Op {
    /// Whether it is to change files beside the conversation.
    pub(super) fn is_change(&self) -> bool {
        matches!(
            self,
            Op::Write(..)
                | Op::Remove(_)
                | Op::Put(..)
                | Op::Delete(_)
                | Op::Unpack(..)
                | Op::Attach(_)
        )
    }
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Step::Restart => f.write_str("restart"),
            Step::Crash => f.write_str("crash"),
            Step::Deploy => f.write_str("deploy"),
            Step::Fault(point, passage) => write!(f, "fault {point} {passage}"),
            Step::Do(ops, kill) => {
                let ops: Vec<_> = ops.iter().map(|(at, op)| format!("{at} {op}")).collect();
                write!(f, "do {}", ops.join(" | "))?;
                write_kill(f, *kill)
            }
            Step::Move(at, kill) => {
                write!(f, "move {at}")?;
                write_kill(f, *kill)
            }
        }
    }
}

fn write_kill(f: &mut fmt::Formatter<'_>, kill: Option<u64>) -> fmt::Result {
    kill.map_or(Ok(()), |after| write!(f, " / kill {after}"))
}

/// What stands before a kill, and when it comes.
fn read_kill(text: &str) -> Result<(&str, Option<u64>)> {
    Ok(match text.split_once(" / kill ") {
        Some((before, after)) => (before, Some(after.parse()?)),
        None => (text, None),
    })
}

impl fmt::Display for Op {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Op::Create => f.write_str("create"),
            Op::Say(file, size) => write!(f, "say {file} {size}"),
            Op::Begin(file) => write!(f, "begin {file}"),
            Op::Finish => f.write_str("finish"),
            Op::Recall => f.write_str("recall"),
            Op::Interrupt => f.write_str("interrupt"),
            Op::Write(file, size) => write!(f, "write {file} {size}"),
            Op::Remove(file) => write!(f, "remove {file}"),
            Op::Pause => f.write_str("pause"),
            Op::Stop => f.write_str("stop"),
            Op::Resume => f.write_str("resume"),
            Op::End => f.write_str("end"),
            Op::Purge => f.write_str("purge"),
            Op::Save(name) => write!(f, "save {name}"),
            Op::Forget(name) => write!(f, "forget {name}"),
            Op::Restore(name) => write!(f, "restore {name}"),
            Op::Rewind(message) => write!(f, "rewind {message}"),
            Op::Fork(None) => f.write_str("fork"),
            Op::Fork(Some(name)) => write!(f, "fork {name}"),
            Op::Put(file, size) => write!(f, "put {file} {size}"),
            Op::Delete(file) => write!(f, "delete {file}"),
            Op::Unpack(file, size) => write!(f, "unpack {file} {size}"),
            Op::Attach(size) => write!(f, "attach {size}"),
            Op::Detach(which) => write!(f, "detach {which}"),
        }
    }
}

impl FromStr for Step {
    type Err = Error;

    fn from_str(line: &str) -> Result<Step> {
        let (word, rest) = line.split_once(' ').unwrap_or((line, ""));
        Ok(match word {
            "restart" => Step::Restart,
            "crash" => Step::Crash,
            "deploy" => Step::Deploy,
            "fault" => {
                let (point, passage) = rest.split_once(' ').context("fault POINT PASSAGE")?;
                Step::Fault(point.to_owned(), passage.parse()?)
            }
            "do" => {
                let (ops, kill) = read_kill(rest)?;
                let op = |text: &str| {
                    let (at, op) = text.split_once(' ').context("do SESSION OP")?;
                    Ok((at.parse()?, op.parse()?))
                };
                Step::Do(ops.split(" | ").map(op).collect::<Result<_>>()?, kill)
            }
            "move" => {
                let (at, kill) = read_kill(rest)?;
                Step::Move(at.parse()?, kill)
            }
            _ => bail!("not a step: {line}"),
        })
    }
}

impl FromStr for Op {
    type Err = Error;

    fn from_str(text: &str) -> Result<Op> {
        let mut words = text.split(' ');
        let word = words.next().unwrap_or_default();
        let numbers: Vec<usize> =
            words.map(|word| Ok(word.parse()?)).collect::<Result<_>>().context(text.to_owned())?;
        Ok(match (word, numbers.as_slice()) {
            ("create", []) => Op::Create,
            ("say", [file, size]) => Op::Say(*file, *size),
            ("begin", [file]) => Op::Begin(*file),
            ("finish", []) => Op::Finish,
            ("recall", []) => Op::Recall,
            ("interrupt", []) => Op::Interrupt,
            ("write", [file, size]) => Op::Write(*file, *size),
            ("remove", [file]) => Op::Remove(*file),
            ("pause", []) => Op::Pause,
            ("stop", []) => Op::Stop,
            ("resume", []) => Op::Resume,
            ("end", []) => Op::End,
            ("purge", []) => Op::Purge,
            ("save", [name]) => Op::Save(*name),
            ("forget", [name]) => Op::Forget(*name),
            ("restore", [name]) => Op::Restore(*name),
            ("rewind", [message]) => Op::Rewind(*message),
            ("fork", []) => Op::Fork(None),
            ("fork", [name]) => Op::Fork(Some(*name)),
            ("put", [file, size]) => Op::Put(*file, *size),
            ("delete", [file]) => Op::Delete(*file),
            ("unpack", [file, size]) => Op::Unpack(*file, *size),
            ("attach", [size]) => Op::Attach(*size),
            ("detach", [which]) => Op::Detach(*which),
            _ => bail!("not a call: {text}"),
        })
    }
}

impl Random {
    /// Random steps. Two sessions are made first, and something happens in them.
    pub(super) fn steps(&mut self, count: usize, points: &[&str]) -> Vec<Step> {
        let mut steps = vec![
            Step::Do(vec![(0, Op::Create)], None),
            Step::Do(vec![(0, Op::Create), (0, Op::Say(0, 20))], None),
        ];
        steps.extend((0..count).map(|_| self.step(points)));
        steps
    }

    fn step(&mut self, points: &[&str]) -> Step {
        match self.below(20) {
            0 => Step::Restart,
            1 => Step::Crash,
            2 | 3 => {
                let point = points[self.below(points.len())];
                Step::Fault(point.to_owned(), 1 + self.below(4))
            }
            4 => Step::Deploy,
            5 => {
                let kill = (self.below(3) == 0).then(|| self.below(300) as u64);
                Step::Move(self.below(6), kill)
            }
            _ => {
                let ops = (0..=self.below(3)).map(|_| (self.below(6), self.op())).collect();
                let kill = (self.below(5) == 0).then(|| self.below(90) as u64);
                Step::Do(ops, kill)
            }
        }
    }

    fn op(&mut self) -> Op {
        let (file, size) = (self.below(FILES), SIZES[self.below(SIZES.len())]);
        let name = self.below(NAMES);
        match self.below(56) {
            0 | 1 => Op::Create,
            2..=9 => Op::Say(file, size),
            10..=12 => Op::Begin(file),
            13 => Op::Finish,
            14 | 15 => Op::Recall,
            16 | 17 => Op::Interrupt,
            18..=20 => Op::Write(file, size),
            21 => Op::Remove(file),
            22 | 23 => Op::Pause,
            24 | 25 => Op::Stop,
            26..=29 => Op::Resume,
            30 => Op::End,
            31 => Op::Purge,
            32..=34 => Op::Save(name),
            35 => Op::Forget(name),
            36..=38 => Op::Restore(name),
            39 | 40 => Op::Rewind(self.below(8)),
            41 => Op::Fork(Some(name)),
            42 | 43 => Op::Fork(None),
            44..=48 => Op::Put(self.below(PLACES), size),
            49 | 50 => Op::Delete(self.below(PLACES)),
            51 | 52 => Op::Unpack(file, size),
            53 | 54 => Op::Attach(size),
            _ => Op::Detach(self.below(8)),
        }
    }
}

#[test]
fn steps_are_read_as_they_are_written() {
    let steps = Random::new(7).steps(500, &["ack.before", "back.built"]);
    for step in steps {
        assert_eq!(step.to_string().parse::<Step>().ok(), Some(step));
    }
}

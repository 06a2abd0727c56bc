//! The targets over their corpora and over mutations of these: a fixed number of them, or, with
//! `FUZZ_SECONDS`, as many as fit into that time. `FUZZ_SEED` repeats a run.
#![expect(clippy::print_stdout, reason = "what a test says is read when it fails")]

use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, UNIX_EPOCH};
use std::{env, fs};

/// Mutations in a run that is to be quick and always the same.
const QUICK: u64 = 2000;

/// The seed of such a run.
const SEED: u64 = 0x9e37_79b9_7f4a_7c15;

/// What is interesting to put somewhere: ends, limits and signs of the formats that are parsed.
const BYTES: &[u8] = b"\0\xff\x7f\x1b\n\r \"{}[]\\:;,/.-+05";

type Target = fn(&[u8]);

#[test]
fn frames() {
    drive("bridge/fuzz", "frames", ash_fuzz::frames);
}

#[test]
fn words() {
    drive("bridge/fuzz", "words", ash_fuzz::words);
}

#[test]
fn lines() {
    drive("bridge/fuzz", "lines", ash_fuzz::lines);
}

#[test]
fn sse() {
    drive("ashctl/fuzz", "sse", ash_fuzz::sse);
}

#[test]
fn text() {
    drive("ashctl/fuzz", "text", ash_fuzz::text);
}

#[test]
fn tar() {
    drive("ashd/fuzz", "tar", ash_fuzz::tar);
}

#[test]
fn node() {
    drive("ashd/fuzz", "node", ash_fuzz::node);
}

#[test]
fn chunk() {
    drive("ashd/fuzz", "chunk", ash_fuzz::chunk);
}

#[test]
fn pack() {
    drive("ashd/fuzz", "pack", ash_fuzz::pack);
}

#[test]
fn scan() {
    drive("ashd/fuzz", "scan", ash_fuzz::scan);
}

#[test]
fn http() {
    drive("ashd/broker/fuzz", "http", ash_fuzz::http);
}

fn drive(directory: &str, name: &str, target: Target) {
    let corpus = corpus(directory, name);
    assert!(!corpus.is_empty(), "{name} has no corpus");
    let seconds = number("FUZZ_SECONDS").unwrap_or(0);
    let seed = number("FUZZ_SEED").unwrap_or_else(|| if seconds == 0 { SEED } else { clock() });
    let run = Run { name, target, seed };
    corpus.iter().for_each(|input| run.one(input));
    let (until, mut random) = (Instant::now() + Duration::from_secs(seconds), Random(seed.max(1)));
    let mut count = 0;
    while if seconds == 0 { count < QUICK } else { Instant::now() < until } {
        let mut input = corpus[random.below(corpus.len())].clone();
        mutate(&mut input, &corpus[random.below(corpus.len())], &mut random);
        run.one(&input);
        count += 1;
    }
    println!("{name}: {count} mutations of {} inputs, seed {seed}", corpus.len());
}

/// The top directory, asked for when running: a build directory may serve several checkouts.
fn root() -> PathBuf {
    Path::new(&env::var_os("CARGO_MANIFEST_DIR").expect("run by cargo")).join("../..")
}

fn corpus(directory: &str, name: &str) -> Vec<Vec<u8>> {
    let entries = fs::read_dir(root().join(directory).join("corpus").join(name)).expect("a corpus");
    let mut files: Vec<_> = entries.map(|entry| entry.expect("a file").path()).collect();
    files.sort();
    files.iter().map(|path| fs::read(path).expect("readable")).collect()
}

fn number(variable: &str) -> Option<u64> {
    env::var(variable).ok().map(|text| text.parse().expect("a number"))
}

fn clock() -> u64 {
    UNIX_EPOCH.elapsed().map_or(SEED, |since| since.as_nanos() as u64)
}

struct Run<'a> {
    name: &'a str,
    target: Target,
    seed: u64,
}

impl Run<'_> {
    /// Tries one input; one that fails is kept.
    fn one(&self, input: &[u8]) {
        let Err(panic) = catch_unwind(AssertUnwindSafe(|| (self.target)(input))) else { return };
        let directory = root().join("target/fuzz-failures");
        let path = directory.join(format!("{}-{}", self.name, self.seed));
        fs::create_dir_all(&directory).and_then(|()| fs::write(&path, input)).expect("saved");
        println!("{}: FUZZ_SEED={} fails with {}", self.name, self.seed, path.display());
        println!("{}", input.escape_ascii());
        resume_unwind(panic);
    }
}

/// xorshift64*: reproducible, and all the randomness that changing bytes needs.
struct Random(u64);

impl Random {
    fn below(&mut self, limit: usize) -> usize {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 33) as usize % limit.max(1)
    }
}

fn mutate(input: &mut Vec<u8>, other: &[u8], random: &mut Random) {
    for _ in 0..=random.below(4) {
        let at = random.below(input.len() + 1);
        match random.below(7) {
            0 => input.truncate(at),
            1 => input.insert(at, BYTES[random.below(BYTES.len())]),
            2 => input.insert(at, random.below(256) as u8),
            3 if at < input.len() => drop(input.remove(at)),
            4 if at < input.len() => input[at] ^= 1 << random.below(8),
            5 if at < input.len() => input[at] = BYTES[random.below(BYTES.len())],
            _ => splice(input, at, other, random),
        }
    }
}

/// Puts a piece of another input somewhere.
fn splice(input: &mut Vec<u8>, at: usize, other: &[u8], random: &mut Random) {
    let start = random.below(other.len() + 1);
    let end = start + random.below(other.len() - start + 1);
    input.splice(at..at, other[start..end].iter().copied());
}

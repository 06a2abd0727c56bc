//! From readings to findings. Every check is a function of the readings and of nothing else.

mod host;
mod kernel;
mod sandbox;
mod service;

pub(super) use service::configured_key;

#[cfg(test)]
mod tests;

use super::finding::Finding;
use super::readings::Readings;

/// Every check, in the order in which findings are told.
const CHECKS: &[fn(&Readings) -> Finding] = &[
    kernel::kernel,
    host::systemd,
    kernel::control_groups,
    kernel::landlock,
    kernel::seccomp,
    sandbox::bubblewrap,
    sandbox::security_modules,
    sandbox::user_namespaces,
    host::disk,
    host::copies,
    host::swap,
    sandbox::runtime,
    service::key,
    service::config,
    host::clock,
    kernel::mitigations,
    service::daemon,
    service::checkpoints,
    service::rights,
];

/// Judges everything.
pub(super) fn all(readings: &Readings) -> Vec<Finding> {
    CHECKS.iter().map(|check| check(readings)).collect()
}

/// The first two numbers of a version, which may stand behind a word.
fn version(text: &str) -> Option<(u32, u32)> {
    let begin = text.find(|each: char| each.is_ascii_digit())?;
    let mut numbers = text[begin..].split(|each: char| !each.is_ascii_digit()).map(str::parse);
    let first = numbers.next()?.ok()?;
    Some((first, numbers.next().and_then(Result::ok).unwrap_or_default()))
}

/// Bytes as people read them.
fn size(bytes: u64) -> String {
    let gib = bytes as f64 / f64::from(1 << 30);
    match gib >= 1.0 {
        true => format!("{gib:.1} GiB"),
        false => format!("{} MiB", bytes >> 20),
    }
}

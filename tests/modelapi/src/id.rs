//! Identifiers that look like the real ones: unique in a process and unlikely to meet elsewhere.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::log::monotonic_ns;

const ALPHABET: &[u8; 58] = b"123456789ABCDEFGHJKLMNPQRSTUVWXYZabcdefghijkmnopqrstuvwxyz";

/// `prefix` and 22 characters, for example `msg_01…`.
pub fn with_prefix(prefix: &str) -> String {
    let (mut high, mut low) = (mixed(), mixed());
    let mut text = String::with_capacity(prefix.len() + 22);
    text.push_str(prefix);
    for _ in 0..11 {
        text.push(ALPHABET[(high % 58) as usize].into());
        text.push(ALPHABET[(low % 58) as usize].into());
        (high, low) = (high / 58, low / 58);
    }
    text
}

/// A version 4 UUID.
pub fn uuid() -> String {
    let (high, low) = (mixed(), mixed());
    format!(
        "{:08x}-{:04x}-4{:03x}-{:04x}-{:012x}",
        high >> 32,
        high >> 16 & 0xffff,
        high & 0xfff,
        low >> 48 & 0x3fff | 0x8000,
        low & 0xffff_ffff_ffff
    )
}

/// The next number of a splitmix64 sequence seeded by the time and the process.
fn mixed() -> u64 {
    static SEED: OnceLock<u64> = OnceLock::new();
    static DRAWN: AtomicU64 = AtomicU64::new(1);
    let seed = SEED.get_or_init(|| monotonic_ns() ^ u64::from(std::process::id()) << 40);
    let step = DRAWN.fetch_add(1, Ordering::Relaxed).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    let mut z = seed.wrapping_add(step);
    z = (z ^ z >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ z >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ z >> 31
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shapes() {
        let id = with_prefix("msg_01");
        assert_eq!(id.len(), 28);
        let uuid = uuid();
        assert_eq!((uuid.len(), &uuid[14..15]), (36, "4"));
        assert!("89ab".contains(&uuid[19..20]));
    }

    #[test]
    fn no_two_are_the_same() {
        let many: std::collections::HashSet<_> = (0..10_000).map(|_| with_prefix("")).collect();
        assert_eq!(many.len(), 10_000);
    }
}

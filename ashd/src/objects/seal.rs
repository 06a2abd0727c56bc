//! Sealing: what leaves this machine can be read only with the key, and only under its own name.
//!
//! ```text
//!   ashseal1 │ nonce, 19 bytes │ frame │ frame │ … │ last frame
//! ```
//!
//! XChaCha20-Poly1305 in the STREAM construction (Hoang, Reyhanitabar, Rogaway, Vizár 2015): frames
//! cannot be left out, moved or cut off at the end, and any length is sealed in little memory. The
//! object's name is authenticated with each frame, so that one object cannot stand in for another.
//! Each tenant's key is derived from the configured one.

use std::sync::Arc;

use chacha20poly1305::aead::KeyInit;
use chacha20poly1305::aead::stream::{DecryptorBE32, EncryptorBE32};
use chacha20poly1305::{Key, XChaCha20Poly1305};
use rand::RngCore;
use zeroize::Zeroizing;

use crate::domain::Tenant;

const MAGIC: &[u8; 8] = b"ashseal1";
const NONCE: usize = 19;
const HEADER: usize = MAGIC.len() + NONCE;
const TAG: usize = 16;

/// Bytes of a frame before they are sealed.
const FRAME: usize = 64 * 1024;

/// Says what derived keys are for (BLAKE3, section 2.3: a context string is hard-coded and unique).
const CONTEXT: &str = "ash 2026-11 sealing of a tenant's objects";

/// The key from which every tenant's key is derived.
#[derive(Clone)]
pub struct SealKey(Arc<Zeroizing<[u8; 32]>>);

/// What was sealed has been changed, or with another key, or under another name.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) struct Unsealed;

impl SealKey {
    /// From 64 hexadecimal digits.
    pub fn from_hex(text: &str) -> Option<SealKey> {
        let text = text.trim();
        if text.len() != 64 || !text.bytes().all(|byte| byte.is_ascii_hexdigit()) {
            return None;
        }
        let mut key = Zeroizing::new([0; 32]);
        for (byte, digits) in key.iter_mut().zip(text.as_bytes().chunks_exact(2)) {
            *byte = u8::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok()?;
        }
        Some(SealKey(Arc::new(key)))
    }

    fn cipher(&self, tenant: &Tenant) -> XChaCha20Poly1305 {
        let mut hasher = blake3::Hasher::new_derive_key(CONTEXT);
        hasher.update(&self.0[..]).update(tenant.as_str().as_bytes());
        let key = Zeroizing::new(*hasher.finalize().as_bytes());
        XChaCha20Poly1305::new(Key::from_slice(&key[..]))
    }
}

/// How many bytes something has when it is sealed.
pub(super) fn sealed_len(plain: u64) -> u64 {
    let frames = plain.div_ceil(FRAME as u64).max(1);
    HEADER as u64 + plain + frames * TAG as u64
}

/// Seals what is pushed through it.
pub(super) struct Sealer {
    stream: EncryptorBE32<XChaCha20Poly1305>,
    name: Vec<u8>,
    frame: Vec<u8>,
}

impl Sealer {
    /// Begins an object; what comes first of it is put into `out`.
    pub(super) fn new(key: &SealKey, tenant: &Tenant, name: &str, out: &mut Vec<u8>) -> Sealer {
        let mut nonce = [0; NONCE];
        rand::rng().fill_bytes(&mut nonce);
        out.extend_from_slice(MAGIC);
        out.extend_from_slice(&nonce);
        let stream = EncryptorBE32::from_aead(key.cipher(tenant), (&nonce).into());
        Sealer { stream, name: name.as_bytes().to_vec(), frame: Vec::with_capacity(FRAME + TAG) }
    }

    /// Takes more of it.
    pub(super) fn push(&mut self, mut plain: &[u8], out: &mut Vec<u8>) -> Result<(), Unsealed> {
        while !plain.is_empty() {
            // A full frame is sealed only when another one follows: the last is sealed otherwise.
            if self.frame.len() == FRAME {
                let sealed = self.stream.encrypt_next_in_place(&self.name, &mut self.frame);
                sealed.map_err(|_| Unsealed)?;
                out.append(&mut self.frame);
            }
            let (now, later) = plain.split_at(plain.len().min(FRAME - self.frame.len()));
            self.frame.extend_from_slice(now);
            plain = later;
        }
        Ok(())
    }

    /// That was all.
    pub(super) fn finish(mut self, out: &mut Vec<u8>) -> Result<(), Unsealed> {
        let sealed = self.stream.encrypt_last_in_place(&self.name, &mut self.frame);
        sealed.map_err(|_| Unsealed)?;
        out.append(&mut self.frame);
        Ok(())
    }
}

/// Opens what is pushed through it. What comes out before the end is what was sealed, but perhaps
/// not all of it.
pub(super) struct Opener {
    key: SealKey,
    tenant: Tenant,
    name: Vec<u8>,
    stream: Option<DecryptorBE32<XChaCha20Poly1305>>,
    frame: Vec<u8>,
}

impl Opener {
    /// Begins an object.
    pub(super) fn new(key: &SealKey, tenant: &Tenant, name: &str) -> Opener {
        let frame = Vec::with_capacity(FRAME + TAG);
        let name = name.as_bytes().to_vec();
        Opener { key: key.clone(), tenant: tenant.clone(), name, stream: None, frame }
    }

    /// Takes more of it.
    pub(super) fn push(&mut self, mut sealed: &[u8], out: &mut Vec<u8>) -> Result<(), Unsealed> {
        while !sealed.is_empty() {
            let wanted = if self.stream.is_some() { FRAME + TAG } else { HEADER };
            if self.frame.len() == wanted {
                self.open_frame(out)?;
                continue;
            }
            let (now, later) = sealed.split_at(sealed.len().min(wanted - self.frame.len()));
            self.frame.extend_from_slice(now);
            sealed = later;
        }
        Ok(())
    }

    fn open_frame(&mut self, out: &mut Vec<u8>) -> Result<(), Unsealed> {
        match &mut self.stream {
            Some(stream) => {
                let opened = stream.decrypt_next_in_place(&self.name, &mut self.frame);
                opened.map_err(|_| Unsealed)?;
                out.append(&mut self.frame);
            }
            None => {
                let (magic, nonce) = self.frame.split_at(MAGIC.len());
                if magic != MAGIC {
                    return Err(Unsealed);
                }
                let cipher = self.key.cipher(&self.tenant);
                self.stream = Some(DecryptorBE32::from_aead(cipher, nonce.into()));
                self.frame.clear();
            }
        }
        Ok(())
    }

    /// That was all.
    pub(super) fn finish(mut self, out: &mut Vec<u8>) -> Result<(), Unsealed> {
        let stream = self.stream.take().ok_or(Unsealed)?;
        let opened = stream.decrypt_last_in_place(&self.name, &mut self.frame);
        opened.map_err(|_| Unsealed)?;
        out.append(&mut self.frame);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn key(digit: &str) -> SealKey {
        SealKey::from_hex(&digit.repeat(64)).unwrap()
    }

    fn seal(plain: &[u8]) -> Vec<u8> {
        let mut out = vec![];
        let mut sealer = Sealer::new(&key("a"), &Tenant::default(), "x/y", &mut out);
        plain.chunks(7_000).for_each(|piece| sealer.push(piece, &mut out).unwrap());
        sealer.finish(&mut out).unwrap();
        out
    }

    fn open_as(
        (key, tenant, name): (&SealKey, &Tenant, &str),
        sealed: &[u8],
        step: usize,
    ) -> Result<Vec<u8>, Unsealed> {
        let (mut opener, mut out) = (Opener::new(key, tenant, name), vec![]);
        sealed.chunks(step).try_for_each(|piece| opener.push(piece, &mut out))?;
        opener.finish(&mut out)?;
        Ok(out)
    }

    fn open(sealed: &[u8]) -> Result<Vec<u8>, Unsealed> {
        open_as((&key("a"), &Tenant::default(), "x/y"), sealed, 10_000)
    }

    #[test]
    fn what_is_sealed_is_opened_whatever_its_length() {
        for length in [0, 1, FRAME - 1, FRAME, FRAME + 1, 3 * FRAME, 3 * FRAME + 77] {
            let plain: Vec<u8> = (0..length).map(|at| ((at * 31) >> 3) as u8).collect();
            let sealed = seal(&plain);
            assert_eq!(sealed.len() as u64, sealed_len(length as u64), "{length}");
            assert_eq!(open(&sealed).unwrap(), plain, "{length}");
            let step = 1 + length / 5;
            let again = open_as((&key("a"), &Tenant::default(), "x/y"), &sealed, step);
            assert_eq!(again.unwrap(), plain, "{length}");
        }
    }

    #[test]
    fn another_key_tenant_or_name_opens_nothing() {
        let sealed = seal(b"hello");
        let (tenant, other) = (Tenant::default(), "other".parse().unwrap());
        assert!(open_as((&key("b"), &tenant, "x/y"), &sealed, 99).is_err());
        assert!(open_as((&key("a"), &other, "x/y"), &sealed, 99).is_err());
        assert!(open_as((&key("a"), &tenant, "x/z"), &sealed, 99).is_err());
        assert_eq!(open(&sealed).unwrap(), b"hello");
    }

    #[test]
    fn frames_cannot_be_left_out_or_moved() {
        let sealed = seal(&vec![7; 3 * FRAME + 10]);
        let frame = |at: usize| HEADER + at * (FRAME + TAG);
        assert_eq!(open(&sealed[..frame(1)]), Err(Unsealed), "cut off at a frame's end");
        let without = [&sealed[..frame(1)], &sealed[frame(2)..]].concat();
        assert_eq!(open(&without), Err(Unsealed));
        let swapped = [
            &sealed[..frame(0)],
            &sealed[frame(1)..frame(2)],
            &sealed[frame(0)..frame(1)],
            &sealed[frame(2)..],
        ];
        assert_eq!(open(&swapped.concat()), Err(Unsealed));
    }

    #[test]
    fn keys_are_64_hexadecimal_digits() {
        for bad in ["", "ab", &"g".repeat(64), &"a".repeat(63), &"+a".repeat(32)] {
            assert!(SealKey::from_hex(bad).is_none(), "{bad:?}");
        }
        assert!(SealKey::from_hex(&format!("{}\n", "0aF1".repeat(16))).is_some());
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(200))]
        #[test]
        fn a_changed_byte_or_length_is_noticed(at: prop::sample::Index, flip in 1u8.., cut: bool) {
            let mut sealed = seal(&vec![3; FRAME + 100]);
            let at = at.index(sealed.len());
            if cut { sealed.truncate(at) } else { sealed[at] ^= flip }
            prop_assert_eq!(open(&sealed), Err(Unsealed));
        }

        #[test]
        fn anything_else_opens_nothing(bytes: Vec<u8>) {
            prop_assert_eq!(open(&bytes), Err(Unsealed));
        }
    }
}

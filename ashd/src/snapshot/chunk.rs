//! Chunks: what content is cut into, named by its hash.

use std::cell::RefCell;
use std::io::Read;
use std::{fmt, io};

use fastcdc::v2020::StreamCDC;
use zstd::bulk::{Compressor, Decompressor};

use super::SnapshotError;

/// Bounds of a chunk of a file, in bytes: the least, the usual, the most.
pub(super) const SIZES: (u32, u32, u32) = (16 * 1024, 64 * 1024, 256 * 1024);

/// The most bytes that anything in the store has, chunks of directories included.
pub(super) const LARGEST: usize = 4 * 1024 * 1024;

/// How hard to try to make things smaller: what a spinning processor does not notice.
const LEVEL: i32 = 1;

/// The name of a chunk: the BLAKE3 hash of its bytes.
#[derive(Clone, Copy, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub(super) struct ChunkId(pub(super) [u8; 32]);

impl ChunkId {
    pub(super) fn of(bytes: &[u8]) -> ChunkId {
        ChunkId(*blake3::hash(bytes).as_bytes())
    }
}

impl fmt::Debug for ChunkId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0[..8].iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

/// A chunk in a list: its name, and how long it is.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) struct ChunkRef {
    pub(super) id: ChunkId,
    pub(super) length: u32,
}

/// Cuts what can be read into chunks, at places that the content decides, so that what is inserted
/// or taken away changes only the chunks around it.
pub(super) fn cut<R: Read>(from: R) -> impl Iterator<Item = Result<Vec<u8>, io::Error>> {
    let (least, usual, most) = SIZES;
    let chunks = StreamCDC::new(from, least, usual, most);
    chunks.map(|chunk| chunk.map(|chunk| chunk.data).map_err(io::Error::from))
}

/// How the bytes of a chunk are kept.
#[derive(Clone)]
pub(super) struct Packed {
    pub(super) bytes: Vec<u8>,
    pub(super) compressed: bool,
}

thread_local! {
    /// Making one takes longer than packing a small chunk with it.
    static PACKER: RefCell<Option<Compressor<'static>>> = const { RefCell::new(None) };
    static UNPACKER: RefCell<Option<Decompressor<'static>>> = const { RefCell::new(None) };
}

/// Makes a chunk smaller, if that can be done.
pub(super) fn pack(plain: Vec<u8>) -> Packed {
    let packed = PACKER.with_borrow_mut(|packer| match packer {
        Some(packer) => packer.compress(&plain),
        none => none.insert(Compressor::new(LEVEL)?).compress(&plain),
    });
    match packed {
        Ok(bytes) if bytes.len() < plain.len() => Packed { bytes, compressed: true },
        _ => Packed { bytes: plain, compressed: false },
    }
}

/// The chunk again. It is checked against its name.
pub(super) fn unpack(id: ChunkId, packed: Packed, length: usize) -> Result<Vec<u8>, SnapshotError> {
    let damaged = |how| SnapshotError::Damaged { what: format!("chunk {id:?}"), how };
    let plain = match packed.compressed {
        true => decompress(&packed.bytes, length.min(LARGEST))
            .map_err(|_| damaged("it cannot be decompressed"))?,
        false => packed.bytes,
    };
    if plain.len() != length || ChunkId::of(&plain) != id {
        return Err(damaged("it is not what was saved"));
    }
    Ok(plain)
}

fn decompress(bytes: &[u8], most: usize) -> io::Result<Vec<u8>> {
    UNPACKER.with_borrow_mut(|unpacker| match unpacker {
        Some(unpacker) => unpacker.decompress(bytes, most),
        none => none.insert(Decompressor::new()?).decompress(bytes, most),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_packed_comes_back_or_is_refused() {
        for plain in [vec![], vec![7; 100_000], (0..200).collect()] {
            let id = ChunkId::of(&plain);
            let packed = pack(plain.clone());
            let again = Packed { bytes: packed.bytes.clone(), ..packed };
            assert_eq!(unpack(id, again, plain.len()).unwrap(), plain);
            let short = Packed { bytes: packed.bytes.clone(), ..packed };
            assert!(unpack(id, short, plain.len() + 1).is_err());
            let mut bytes = packed.bytes;
            if let Some(byte) = bytes.last_mut() {
                *byte ^= 1;
                assert!(unpack(id, Packed { bytes, ..packed }, plain.len()).is_err());
            }
        }
    }

    #[test]
    fn what_is_inserted_changes_only_what_is_around_it() {
        let plain: Vec<u8> =
            (0..600_000u32).flat_map(|n| n.wrapping_mul(2_654_435_761).to_le_bytes()).collect();
        let names = |bytes: &[u8]| -> Vec<ChunkId> {
            cut(bytes).map(|chunk| ChunkId::of(&chunk.unwrap())).collect()
        };
        let before = names(&plain);
        let mut longer = plain.clone();
        longer.splice(1_000_000..1_000_000, *b"something new");
        let after = names(&longer);
        let new = after.iter().filter(|id| !before.contains(id)).count();
        assert!(before.len() > 20 && new <= 2, "{new} of {}", after.len());
    }
}

//! What strangers upload.

use std::path::Path;
use std::{fs, io};

use ashd::tree::{Links, Tree, TreeLimits};
use tempfile::TempDir;

/// The size of a header, and what everything in an archive is padded to.
const BLOCK: usize = 512;

/// Where a header has its checksum.
const CHECKSUM: std::ops::Range<usize> = 148..156;

/// Any bytes as an archive, and again with checksums that are right: nothing but the tree is
/// touched, and what is taken as an agent's folder is a good tree.
pub fn tar(archive: &[u8]) {
    let dir = place().expect("a temporary directory");
    let mended = mended(archive);
    for (name, archive, links) in [
        ("tree", archive, Links::Inside),
        ("mended", &mended, Links::Inside),
        ("workspace", &mended, Links::All),
    ] {
        unpack(archive, &dir.path().join(name), links);
    }
    assert_eq!(fs::read_dir(dir.path()).expect("the directory").count(), 3, "something got out");
}

/// In memory where that can be: what a disk takes for this is better spent on more archives.
fn place() -> io::Result<TempDir> {
    tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir())
}

fn unpack(archive: &[u8], path: &Path, links: Links) {
    fs::create_dir(path).expect("a directory");
    let tree = Tree::open(path).expect("a tree");
    let limits = TreeLimits { files: 100, bytes: 1024 * 1024 };
    let unpacked = tree.unpack_tar(archive, (1234, links), limits);
    if unpacked.is_ok() && links == Links::Inside {
        tree.check(TreeLimits::default()).expect("what was taken is a good tree");
    }
}

/// The archive with the right checksum in every block that looks like a header: random changes
/// would hardly ever come any further without.
fn mended(archive: &[u8]) -> Vec<u8> {
    let mut archive = archive.to_vec();
    for block in archive.chunks_exact_mut(BLOCK).filter(|block| block[257..].starts_with(b"ustar"))
    {
        block[CHECKSUM].fill(b' ');
        let sum: u32 = block.iter().map(|byte| u32::from(*byte)).sum();
        block[CHECKSUM].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    }
    archive
}

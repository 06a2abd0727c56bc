//! Archives going out: the blocks of a tar archive (GNU), made entry by entry for those who stream
//! one.

use tar::{EntryType, Header};

/// Everything in an archive fills blocks of so many bytes.
const BLOCK: usize = 512;

/// What an archive ends with.
pub const END: [u8; 2 * BLOCK] = [0; 2 * BLOCK];

/// What an entry is.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Entry<'a> {
    /// A regular file of so many bytes, which follow.
    File(u64),
    /// A directory.
    Dir,
    /// A symbolic link and what it says.
    Link(&'a [u8]),
}

/// The blocks in front of an entry's content. Owners are not told.
pub fn header(path: &[u8], entry: Entry<'_>, mode: u32, modified: i64) -> Vec<u8> {
    let mut blocks = vec![];
    let mut path = path.to_vec();
    if entry == Entry::Dir {
        path.push(b'/');
    }
    let mut header = Header::new_gnu();
    header.set_mode(mode & 0o777);
    header.set_mtime(u64::try_from(modified).unwrap_or(0));
    header.set_uid(0);
    header.set_gid(0);
    let (kind, size, link) = match entry {
        Entry::File(size) => (EntryType::Regular, size, None),
        Entry::Dir => (EntryType::Directory, 0, None),
        Entry::Link(target) => (EntryType::Symlink, 0, Some(target)),
    };
    header.set_entry_type(kind);
    header.set_size(size);
    if let Some(fields) = header.as_gnu_mut() {
        if let Some(link) = link {
            place(link, &mut fields.linkname, EntryType::GNULongLink, &mut blocks);
        }
        place(&path, &mut fields.name, EntryType::GNULongName, &mut blocks);
    }
    header.set_cksum();
    blocks.extend(header.as_bytes());
    blocks
}

/// How many zeros follow a content of this size.
pub fn padding(size: u64) -> usize {
    let over = usize::try_from(size % BLOCK as u64).unwrap_or(0);
    (BLOCK - over) % BLOCK
}

/// Writes a name into its field. One that is too long stands in an entry of its own before.
fn place(name: &[u8], field: &mut [u8; 100], kind: EntryType, blocks: &mut Vec<u8>) {
    let fits = name.len().min(field.len());
    field[..fits].copy_from_slice(&name[..fits]);
    if fits == name.len() {
        return;
    }
    let mut long = Header::new_gnu();
    if let Some(fields) = long.as_gnu_mut() {
        fields.name[..13].copy_from_slice(b"././@LongLink");
    }
    long.set_entry_type(kind);
    long.set_mode(0o644);
    long.set_uid(0);
    long.set_gid(0);
    long.set_mtime(0);
    let size = name.len() as u64 + 1;
    long.set_size(size);
    long.set_cksum();
    blocks.extend(long.as_bytes());
    blocks.extend(name);
    blocks.push(0);
    blocks.resize(blocks.len() + padding(size), 0);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tree::{Links, Tree, TreeLimits};

    #[test]
    fn what_is_packed_is_what_ordinary_tools_read() {
        let (long, far) = (format!("d/{}", "n".repeat(200)), "../".repeat(60));
        let mut archive = header(b"d", Entry::Dir, 0o750, 1);
        archive.extend(header(long.as_bytes(), Entry::File(3), 0o4755, 1_700_000_000));
        archive.extend(b"abc");
        archive.resize(archive.len() + padding(3), 0);
        archive.extend(header(b"d/link", Entry::Link(far.as_bytes()), 0o777, -5));
        archive.extend(END);
        let dir = tempfile::tempdir().unwrap();
        let (own, theirs) = (dir.path().join("own"), dir.path().join("theirs"));
        for path in [&own, &theirs] {
            std::fs::create_dir(path).unwrap();
        }
        let owner = rustix::process::geteuid().as_raw();
        let tree = Tree::open(&own).unwrap();
        tree.unpack_tar(&archive[..], (owner, Links::All), TreeLimits::default()).unwrap();
        let file = dir.path().join("archive");
        std::fs::write(&file, &archive).unwrap();
        let mut tar = std::process::Command::new("tar");
        assert!(tar.arg("-xf").arg(&file).arg("-C").arg(&theirs).status().unwrap().success());
        for path in [&own, &theirs] {
            assert_eq!(std::fs::read_to_string(path.join(&long)).unwrap(), "abc");
            let link = std::fs::read_link(path.join("d/link")).unwrap();
            assert_eq!(link.to_str(), Some(far.as_str()));
        }
    }

    #[test]
    fn blocks_are_filled() {
        for (size, zeros) in [(0, 0), (1, 511), (512, 0), (513, 511)] {
            assert_eq!(padding(size), zeros);
        }
    }
}

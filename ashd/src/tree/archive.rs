//! Unpacking an archive that a stranger made.
//!
//! The `tar` crate reads headers and nothing else: names, links and bounds are judged here, and
//! every write goes through the tree. Kinds of entries that an agent's folder does not need are
//! errors, not skipped: what is deployed is what was sent.

use std::io::{self, BufReader, Read};
use std::os::fd::AsFd;

use rustix::fs::{AtFlags, Gid, Uid};
use tar::{EntryType, Header, PaxExtensions};

use super::check::follow_link;
use super::path::stays_inside;
use super::{Links, RelPath, Summary, Tree, TreeError, TreeLimits, open, shown, write};

const BLOCK: usize = 512;

/// The largest extended header, in bytes: two paths and some small change.
const MAX_EXTENDED: u64 = 16 * 1024;

/// Extended headers that may precede one entry.
const MAX_EXTENSIONS: u32 = 4;

/// What the names of pax records about sparse files begin with.
const SPARSE: &[u8] = b"GNU.sparse.";

impl Tree {
    /// Unpacks a tar archive (ustar, GNU or pax) of files, directories and links; everything gets
    /// `owner` as uid and gid. Set-id bits, owners and extended attributes in the archive are
    /// ignored.
    ///
    /// # Errors
    /// Names with `..`, absolute names, a name twice, a way through a link, hard links, device
    /// nodes, sparse files, anything over `limits`, a damaged or cut-off archive. What was
    /// unpacked before the error stays.
    pub fn unpack_tar(
        &self,
        archive: impl Read,
        (owner, links): (u32, Links),
        limits: TreeLimits,
    ) -> Result<Summary, TreeError> {
        let summary = Summary::default();
        let archive = BufReader::with_capacity(64 * 1024, archive);
        let mut unpack = Unpack {
            tree: self,
            archive,
            owner,
            limits,
            summary,
            roots: 0,
            taken: links,
            links: Vec::new(),
        };
        while unpack.entry()? {}
        // Only now is everything there that a link may lead through.
        unpack
            .links
            .iter()
            .try_for_each(|path| follow_link(self.fd(), path.as_str().as_bytes()))?;
        Ok(unpack.summary)
    }
}

struct Unpack<'a, R> {
    tree: &'a Tree,
    archive: BufReader<R>,
    owner: u32,
    limits: TreeLimits,
    summary: Summary,
    /// How often the archive's own root has come.
    roots: u64,
    /// Which links are taken.
    taken: Links,
    /// Those that have to lead to somewhere inside.
    links: Vec<RelPath>,
}

/// What extended headers say about the entry behind them.
#[derive(Default)]
struct Extended {
    path: Option<Vec<u8>>,
    link: Option<Vec<u8>>,
    size: Option<u64>,
}

impl<R: Read> Unpack<'_, R> {
    /// Unpacks one entry with its extended headers; `false` at the end of the archive.
    fn entry(&mut self) -> Result<bool, TreeError> {
        let mut extended = Extended::default();
        for _ in 0..=MAX_EXTENSIONS {
            let Some(header) = self.header()? else { return Ok(false) };
            let size =
                header.entry_size().map_err(|_| TreeError::Archive("a size is no number"))?;
            match header.entry_type() {
                EntryType::XHeader => extended.read_pax(&self.small(size)?)?,
                EntryType::XGlobalHeader => Extended::check_global(&self.small(size)?)?,
                EntryType::GNULongName => extended.path = Some(text(self.small(size)?)),
                EntryType::GNULongLink => extended.link = Some(text(self.small(size)?)),
                _ => return self.unpack(&header, extended).map(|()| true),
            }
        }
        Err(TreeError::Archive("too many extended headers in a row"))
    }

    fn header(&mut self) -> Result<Option<Header>, TreeError> {
        let mut block = [0; BLOCK];
        self.fill(&mut block)?;
        if block == [0; BLOCK] {
            return Ok(None);
        }
        let header = Header::from_byte_slice(&block).clone();
        let sum = header.cksum().map_err(|_| TreeError::Archive("a header has no checksum"))?;
        let field = 148..156;
        let blank =
            |(at, byte): (usize, &u8)| if field.contains(&at) { 32 } else { u32::from(*byte) };
        if block.iter().enumerate().map(blank).sum::<u32>() != sum {
            return Err(TreeError::Archive("a header's checksum is wrong"));
        }
        Ok(Some(header))
    }

    fn unpack(&mut self, header: &Header, extended: Extended) -> Result<(), TreeError> {
        let path = extended.path.unwrap_or_else(|| header.path_bytes().into_owned());
        let size = match extended.size {
            Some(size) => size,
            None => header.entry_size().unwrap_or(u64::MAX),
        };
        let Some((path, slash)) = clean(&path)? else { return self.skip_root(header, size) };
        self.summary.files += 1;
        if self.summary.files > self.limits.files {
            return Err(TreeError::TooMany(self.limits.files));
        }
        let mode = header.mode().unwrap_or(0);
        match header.entry_type() {
            EntryType::Directory => self.dir(&path, mode, size),
            // Archives from before directories had a type of their own.
            EntryType::Regular if slash => self.dir(&path, mode, size),
            EntryType::Regular | EntryType::Continuous => self.file(&path, mode, size),
            EntryType::Symlink => {
                let link = extended.link.or_else(|| header.link_name_bytes().map(Into::into));
                self.link(path, &link.unwrap_or_default(), size)
            }
            kind => Err(TreeError::Special { path: path.as_str().to_owned(), what: called(kind) }),
        }
    }

    /// The archive's own `./`, whose mode does not concern us. It comes once, and must not come for
    /// ever: nothing else bounds an archive of nothing but that.
    fn skip_root(&mut self, header: &Header, size: u64) -> Result<(), TreeError> {
        if header.entry_type() != EntryType::Directory || size != 0 {
            let reason = "only a folder can have this name";
            return Err(TreeError::Name { path: ".".into(), reason });
        }
        self.roots += 1;
        match self.roots > self.limits.files {
            true => Err(TreeError::TooMany(self.limits.files)),
            false => Ok(()),
        }
    }

    fn dir(&self, path: &RelPath, mode: u32, size: u64) -> Result<(), TreeError> {
        let at = |error| TreeError::at(path.as_str(), error);
        if size != 0 {
            return Err(TreeError::Archive("a directory has contents"));
        }
        let (parent, name) = self.tree.parent(path, self.owner)?;
        let dir = write::enter(parent.as_fd(), name.as_bytes(), self.owner).map_err(at)?;
        open::give(&dir, self.owner, mode | 0o700).map_err(at)
    }

    fn file(&mut self, path: &RelPath, mode: u32, size: u64) -> Result<(), TreeError> {
        let at = |error| TreeError::at(path.as_str(), error);
        self.summary.bytes = self.summary.bytes.saturating_add(size);
        if self.summary.bytes > self.limits.bytes {
            return Err(TreeError::TooLarge(self.limits.bytes));
        }
        let (parent, name) = self.tree.parent(path, self.owner)?;
        let mut file = open::new_file(parent.as_fd(), name.as_bytes()).map_err(at)?;
        let copied = io::copy(&mut self.archive.by_ref().take(size), &mut file)
            .map_err(|error| TreeError::io(path.as_str(), error))?;
        if copied < size {
            return Err(CUT);
        }
        self.padding(size)?;
        open::give(&file, self.owner, mode | 0o600).map_err(at)
    }

    fn link(&mut self, path: RelPath, target: &[u8], size: u64) -> Result<(), TreeError> {
        let at = |error| TreeError::at(path.as_str(), error);
        if size != 0 {
            return Err(TreeError::Archive("a link has contents"));
        }
        let inside = self.taken == Links::Inside;
        if target.contains(&0) || (inside && !stays_inside(path.names().count() - 1, target)) {
            return Err(TreeError::Escapes(path.as_str().to_owned()));
        }
        let (parent, name) = self.tree.parent(&path, self.owner)?;
        rustix::fs::symlinkat(target, &parent, name).map_err(at)?;
        let (uid, gid) = (Uid::from_raw(self.owner), Gid::from_raw(self.owner));
        rustix::fs::chownat(&parent, name, Some(uid), Some(gid), AtFlags::SYMLINK_NOFOLLOW)
            .map_err(at)?;
        if inside {
            self.links.push(path);
        }
        Ok(())
    }

    /// The contents of an extended header.
    fn small(&mut self, size: u64) -> Result<Vec<u8>, TreeError> {
        if size > MAX_EXTENDED {
            return Err(TreeError::Archive("an extended header is larger than 16 KiB"));
        }
        let mut bytes = vec![0; usize::try_from(size).unwrap_or(0)];
        self.fill(&mut bytes)?;
        self.padding(size)?;
        Ok(bytes)
    }

    /// Contents fill whole blocks.
    fn padding(&mut self, size: u64) -> Result<(), TreeError> {
        let over = usize::try_from(size % BLOCK as u64).unwrap_or(0);
        let mut rest = [0; BLOCK];
        self.fill(&mut rest[..(BLOCK - over) % BLOCK])
    }

    fn fill(&mut self, bytes: &mut [u8]) -> Result<(), TreeError> {
        self.archive.read_exact(bytes).map_err(|error| match error.kind() {
            io::ErrorKind::UnexpectedEof => CUT,
            _ => TreeError::io("the archive", error),
        })
    }
}

const CUT: TreeError = TreeError::Archive("it ends too early");

impl Extended {
    fn read_pax(&mut self, bytes: &[u8]) -> Result<(), TreeError> {
        each(bytes, |key, value| {
            match key {
                b"path" => self.path = Some(value.to_vec()),
                b"linkpath" => self.link = Some(value.to_vec()),
                b"size" => self.size = Some(number(value)?),
                _ if key.starts_with(SPARSE) => {
                    return Err(TreeError::Archive("sparse files are not taken"));
                }
                // Times, owners, attributes: none of them is taken over.
                _ => {}
            }
            Ok(())
        })
    }

    /// Global headers carry comments; one that changes what entries are is refused.
    fn check_global(bytes: &[u8]) -> Result<(), TreeError> {
        each(bytes, |key, _| {
            let changes = matches!(key, b"path" | b"linkpath" | b"size");
            if changes || key.starts_with(SPARSE) {
                return Err(TreeError::Archive("a global header changes every entry"));
            }
            Ok(())
        })
    }
}

fn each(
    bytes: &[u8],
    mut body: impl FnMut(&[u8], &[u8]) -> Result<(), TreeError>,
) -> Result<(), TreeError> {
    for record in PaxExtensions::new(bytes) {
        let record = record.map_err(|_| TreeError::Archive("an extended header is malformed"))?;
        body(record.key_bytes(), record.value_bytes())?;
    }
    Ok(())
}

fn number(value: &[u8]) -> Result<u64, TreeError> {
    let text = std::str::from_utf8(value).ok().filter(|text| !text.starts_with('+'));
    text.and_then(|text| text.parse().ok()).ok_or(TreeError::Archive("a size is no number"))
}

/// GNU's long names end with a NUL.
fn text(mut bytes: Vec<u8>) -> Vec<u8> {
    if let Some(end) = bytes.iter().position(|byte| *byte == 0) {
        bytes.truncate(end);
    }
    bytes
}

/// An entry's name without `./` in front and `/` behind (and whether that was there); `None` for
/// the archive's own root.
fn clean(name: &[u8]) -> Result<Option<(RelPath, bool)>, TreeError> {
    let refused = |reason| TreeError::Name { path: shown(&name[..name.len().min(255)]), reason };
    let text = std::str::from_utf8(name).map_err(|_| refused("the name is not UTF-8"))?;
    let (text, slash) = match text.strip_suffix('/') {
        Some(text) => (text, true),
        None => (text, false),
    };
    match text.strip_prefix("./").unwrap_or(text) {
        "." | "" if slash || text == "." => Ok(None),
        text => Ok(Some((RelPath::parse(text)?, slash))),
    }
}

fn called(kind: EntryType) -> &'static str {
    match kind {
        EntryType::Link => "a hard link",
        EntryType::Char | EntryType::Block => "a device node",
        EntryType::Fifo => "a FIFO",
        EntryType::GNUSparse => "a sparse file",
        _ => "of an unknown kind",
    }
}

#[cfg(test)]
#[path = "archive_tests.rs"]
mod tests;

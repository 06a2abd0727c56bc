use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::{self, Read};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use proptest::prelude::*;
use tar::{Builder, EntryType, Header};
use tempfile::TempDir;

use crate::tree::*;

/// An archive made entry by entry, with names that no well-behaved builder writes.
#[derive(Default)]
struct Archive(Vec<u8>);

impl Archive {
    fn raw(mut self, kind: EntryType, name: &[u8], link: &[u8], body: &[u8]) -> Self {
        let mut header = Header::new_ustar();
        header.set_entry_type(kind);
        header.set_mode(0o4755);
        header.set_size(body.len() as u64);
        header.as_mut_bytes()[..name.len()].copy_from_slice(name);
        header.as_mut_bytes()[157..157 + link.len()].copy_from_slice(link);
        header.set_cksum();
        self.0.extend(header.as_bytes());
        self.padded(body)
    }

    fn padded(mut self, body: &[u8]) -> Self {
        self.0.extend(body);
        self.0.resize(self.0.len().next_multiple_of(512), 0);
        self
    }

    fn file(self, name: &str, body: &str) -> Self {
        self.raw(EntryType::Regular, name.as_bytes(), b"", body.as_bytes())
    }

    fn dir(self, name: &str) -> Self {
        self.raw(EntryType::Directory, name.as_bytes(), b"", b"")
    }

    fn link(self, name: &str, target: &str) -> Self {
        self.raw(EntryType::Symlink, name.as_bytes(), target.as_bytes(), b"")
    }

    fn pax(self, kind: EntryType, records: &[(&str, &str)]) -> Self {
        let body: String = records
            .iter()
            .map(|(key, value)| {
                let rest = format!(" {key}={value}\n");
                let length = (rest.len()..).find(|n| n.to_string().len() + rest.len() == *n);
                format!("{}{rest}", length.unwrap())
            })
            .collect();
        self.raw(kind, b"pax", b"", body.as_bytes())
    }

    fn end(mut self) -> Vec<u8> {
        self.0.extend([0; 1024]);
        self.0
    }
}

struct Place(TempDir);

impl Place {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join("tree")).unwrap();
        Place(dir)
    }

    fn unpack(&self, archive: impl Read) -> Result<Summary, TreeError> {
        let limits = TreeLimits { files: 50, bytes: 10_000 };
        self.tree().unpack_tar(archive, (1234, Links::Inside), limits)
    }

    fn tree(&self) -> Tree {
        Tree::open(&self.path("")).unwrap()
    }

    fn path(&self, rel: &str) -> PathBuf {
        self.0.path().join("tree").join(rel)
    }

    /// Nothing but the tree is where the tree is.
    fn is_alone(&self) -> bool {
        fs::read_dir(self.0.path()).unwrap().count() == 1
    }
}

#[test]
fn what_ordinary_tools_write_is_taken() {
    let source = tempfile::tempdir().unwrap();
    let deep = source.path().join("a".repeat(90)).join("b".repeat(90));
    fs::create_dir_all(&deep).unwrap();
    fs::write(deep.join("f"), "deep").unwrap();
    fs::write(source.path().join("CLAUDE.md"), "be kind").unwrap();
    std::os::unix::fs::symlink("CLAUDE.md", source.path().join("link")).unwrap();
    for format in ["gnu", "pax", "ustar", "v7"] {
        let output = std::process::Command::new("tar")
            .args(["-C", &source.path().to_string_lossy(), "--format", format, "-c", "."])
            .output()
            .unwrap();
        if format == "v7" {
            // Its names are too short for this tree; tar leaves the long one out.
            assert!(!output.status.success());
        }
        let place = Place::new();
        place.unpack(&output.stdout[..]).unwrap_or_else(|error| panic!("{format}: {error}"));
        assert_eq!(fs::read(place.path("CLAUDE.md")).unwrap(), b"be kind");
        assert_eq!(fs::read_link(place.path("link")).unwrap(), Path::new("CLAUDE.md"));
        assert_eq!(fs::metadata(place.path("CLAUDE.md")).unwrap().uid(), 1234);
    }
    let mut builder = Builder::new(Vec::new());
    builder.append_dir_all("", source.path()).unwrap();
    let place = Place::new();
    place.unpack(&builder.into_inner().unwrap()[..]).unwrap();
    assert!(place.path(&format!("{}/{}/f", "a".repeat(90), "b".repeat(90))).exists());
}

#[test]
fn modes_lose_their_dangerous_bits() {
    let place = Place::new();
    place.unpack(&Archive::default().file("run", "x").dir("d").end()[..]).unwrap();
    for name in ["run", "d"] {
        let meta = fs::metadata(place.path(name)).unwrap();
        assert_eq!((meta.mode() & 0o7777, meta.gid()), (0o755, 1234), "{name}");
    }
}

#[test]
fn extended_names_are_taken_and_bounded() {
    let place = Place::new();
    let long = format!("d/{}", "n".repeat(200));
    let archive = Archive::default()
        .pax(EntryType::XGlobalHeader, &[("comment", "made by somebody")])
        .pax(EntryType::XHeader, &[("path", &long), ("mtime", "1.5"), ("size", "2")])
        .file("short", "hi")
        .raw(EntryType::GNULongName, b"././@LongLink", b"", b"gnu\0")
        .file("short", "ho");
    assert_eq!(place.unpack(&archive.end()[..]).unwrap(), Summary { files: 2, bytes: 4 });
    assert_eq!(fs::read(place.path(&long)).unwrap(), b"hi");
    assert_eq!(fs::read(place.path("gnu")).unwrap(), b"ho");
}

#[test]
fn hostile_archives_are_refused_and_reach_nothing() {
    let new = Archive::default;
    let kind = |kind| new().raw(kind, b"x", b"y", b"");
    let pax = |records: &[(&str, &str)]| new().pax(EntryType::XHeader, records).file("x", "hi");
    let deep = "d/".repeat(60);
    let cases: Vec<(&str, Archive)> = vec![
        ("parent", new().file("../x", "x")),
        ("parent inside", new().file("a/../../x", "x")),
        ("absolute", new().file("/tmp/x", "x")),
        ("twice", new().file("x", "1").file("x", "2")),
        ("empty part", new().file("a//x", "x")),
        ("control", new().file("a\nx", "x")),
        ("not text", new().raw(EntryType::Regular, b"a\xff", b"", b"")),
        ("root as file", new().file("./", "x")),
        ("link out", new().link("x", "../x")),
        ("link absolute", new().link("x", "/etc")),
        ("link empty", new().link("x", "")),
        ("chained", new().link("d/e/up", "../..").link("x", "d/e/up/../x")),
        ("loop", new().link("x", "y").link("y", "x")),
        ("through link", new().dir("d").link("l", "d").file("l/x", "x")),
        ("over link", new().link("x", "y").file("x", "x")),
        ("dir over link", new().dir("d").link("l", "d").dir("l")),
        ("link with body", new().raw(EntryType::Symlink, b"x", b"y", b"body")),
        ("dir with body", new().raw(EntryType::Directory, b"x", b"", b"body")),
        ("hard link", kind(EntryType::Link)),
        ("char", kind(EntryType::Char)),
        ("block", kind(EntryType::Block)),
        ("fifo", kind(EntryType::Fifo)),
        ("gnu sparse", kind(EntryType::GNUSparse)),
        ("unknown", kind(EntryType::new(b'Z'))),
        ("pax path", pax(&[("path", "../x")])),
        ("pax absolute", pax(&[("path", "/x")])),
        ("pax nul", pax(&[("path", "a\0b")])),
        ("pax sparse", pax(&[("GNU.sparse.major", "1")])),
        ("pax size", pax(&[("size", "99999")])),
        ("pax size text", pax(&[("size", "+2")])),
        ("global path", new().pax(EntryType::XGlobalHeader, &[("path", "x")]).file("x", "hi")),
        ("pax bomb", new().raw(EntryType::XHeader, b"p", b"", &[b'x'; 20_000])),
        ("malformed pax", new().raw(EntryType::XHeader, b"p", b"", b"99 x=y\n")),
        ("headers only", (0..6).fold(new(), |a, _| a.pax(EntryType::XHeader, &[("k", "v")]))),
        ("too large", new().file("x", &"x".repeat(10_001))),
        ("too many", (0..51).fold(new(), |a, n| a.file(&format!("f{n}"), ""))),
        ("too many roots", (0..51).fold(new(), |a, _| a.dir("./"))),
        (
            "deep",
            (0..3).fold(new(), |a, n| {
                a.pax(EntryType::XHeader, &[("path", &format!("{}{n}", deep.repeat(3)))])
                    .file("x", "")
            }),
        ),
    ];
    for (name, archive) in cases {
        let place = Place::new();
        let error = place.unpack(&archive.end()[..]).expect_err(name);
        assert!(place.is_alone(), "{name}");
        let host = place.0.path().to_string_lossy().into_owned();
        assert!(!error.to_string().contains(&host), "{name}: {error}");
        remove_all(place.0.path(), "tree").unwrap();
    }
}

#[test]
fn sizes_beyond_all_measure_are_refused() {
    let mut archive = Archive::default().file("x", "").end();
    // The largest size that a header can say, in GNU's binary form.
    archive[124..136].copy_from_slice(&[0x80, 0, 0, 0, 0xff, 255, 255, 255, 255, 255, 255, 255]);
    let mut header = Header::from_byte_slice(&archive[..512]).clone();
    header.set_cksum();
    archive[..512].copy_from_slice(header.as_bytes());
    assert!(matches!(Place::new().unpack(&archive[..]), Err(TreeError::TooLarge(_))));
}

#[test]
fn an_archive_cut_anywhere_is_refused() {
    let whole = Archive::default().file("a", "hello").link("l", "a").file("b", "x").end();
    // The last of the two closing blocks says nothing new.
    for end in (0..whole.len() - 1023).step_by(3) {
        let error = Place::new().unpack(&whole[..end]).expect_err(&end.to_string());
        assert!(matches!(error, TreeError::Archive("it ends too early")), "{end}: {error}");
    }
    Place::new().unpack(&whole[..whole.len() - 512]).unwrap();
}

#[test]
fn a_flipped_header_is_refused() {
    let whole = Archive::default().file("a", "hello").end();
    for at in 0..512 {
        let mut archive = whole.clone();
        archive[at] ^= 1;
        assert!(Place::new().unpack(&archive[..]).is_err(), "byte {at}");
    }
}

/// A reader that never ends and never says anything.
struct Endless;

impl Read for Endless {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        buffer.fill(b'x');
        Ok(buffer.len())
    }
}

#[test]
fn an_endless_stream_ends() {
    assert!(Place::new().unpack(Endless).is_err());
    let file = Archive::default().file("x", "x").0;
    assert!(Place::new().unpack(file.chain(Endless)).is_err());
}

fn entries() -> impl Strategy<Value = Vec<(u8, Vec<&'static str>, Vec<&'static str>)>> {
    let kind = prop::sample::select(b"0052521gxLK".to_vec());
    let part = || prop::sample::select(vec!["a", "b", "..", ".", "c", "", "d"]);
    let path = || prop::collection::vec(part(), 1..4);
    prop::collection::vec((kind, path(), path()), 0..8)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    /// Whatever is in it: what was taken is a tree that passes the check, and nothing else was
    /// touched.
    #[test]
    fn what_is_taken_is_a_good_tree(entries in entries()) {
        let place = Place::new();
        let archive = entries.iter().fold(Archive::default(), |archive, (kind, name, link)| {
            let (name, link) = (name.join("/"), link.join("/"));
            let body: &[u8] = if *kind == b'0' { b"body" } else { b"" };
            archive.raw(EntryType::new(*kind), name.as_bytes(), link.as_bytes(), body)
        });
        let unpacked = place.unpack(&archive.end()[..]);
        prop_assert!(place.is_alone());
        if unpacked.is_ok() {
            prop_assert!(place.tree().check(TreeLimits::default()).is_ok());
        }
    }

    /// Bytes changed anywhere, with checksums mended, so that what is behind them is reached.
    #[test]
    fn mutations_are_survived(changes in prop::collection::btree_map(0usize..3072, any::<u8>(), 1..6)) {
        let mut archive = seed();
        apply(&mut archive, &changes);
        let place = Place::new();
        let _ = place.unpack(&archive[..]);
        prop_assert!(place.is_alone());
    }
}

/// What the fuzzer starts from is not all refused.
#[test]
fn the_good_ones_of_the_corpus_are_taken() {
    let corpus = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus/tar");
    let mut taken = BTreeSet::new();
    for entry in fs::read_dir(corpus).unwrap() {
        let entry = entry.unwrap();
        if Place::new().unpack(&fs::read(entry.path()).unwrap()[..]).is_ok() {
            taken.insert(entry.file_name().into_string().unwrap());
        }
    }
    assert_eq!(taken, ["good-gnu-long", "good-pax-long", "good-ustar"].map(Into::into).into());
}

fn seed() -> Vec<u8> {
    Archive::default()
        .pax(EntryType::XHeader, &[("path", "d/x")])
        .file("x", "hello")
        .link("l", "d/x")
        .dir("e")
        .end()
}

fn apply(archive: &mut [u8], changes: &BTreeMap<usize, u8>) {
    for (at, byte) in changes {
        if let Some(place) = archive.get_mut(*at) {
            *place = *byte;
        }
    }
    for block in archive.chunks_exact_mut(512).filter(|block| &block[257..262] == b"ustar") {
        let mut header = Header::from_byte_slice(block).clone();
        header.set_cksum();
        block.copy_from_slice(header.as_bytes());
    }
}

//! Trees after any changes.

use proptest::prelude::*;

use super::*;

#[derive(Clone, Debug)]
enum Change {
    Write(u8, u64, usize),
    Append(u8, u64),
    Remove(u8),
    Link(u8, u8),
    Symlink(u8, u8),
    Dir(u8),
    Mode(u8, u32),
    Rename(u8, u8),
}

fn change() -> impl Strategy<Value = Change> {
    let n = || 0..12u8;
    prop_oneof![
        4 => (n(), any::<u64>(), 0..200_000usize).prop_map(|(f, s, l)| Change::Write(f, s, l)),
        2 => (n(), any::<u64>()).prop_map(|(f, s)| Change::Append(f, s)),
        2 => n().prop_map(Change::Remove),
        1 => (n(), n()).prop_map(|(a, b)| Change::Link(a, b)),
        1 => (n(), n()).prop_map(|(a, b)| Change::Symlink(a, b)),
        2 => n().prop_map(Change::Dir),
        1 => (n(), 0..0o1000u32).prop_map(|(f, mode)| Change::Mode(f, mode | 0o400)),
        1 => (n(), n()).prop_map(|(a, b)| Change::Rename(a, b)),
    ]
}

/// A third of the names lie in each of two directories, if these are there.
fn name(root: &Path, n: u8) -> PathBuf {
    match n % 3 {
        0 => root.join(n.to_string()),
        k => root.join(format!("d{k}")).join(n.to_string()),
    }
}

fn apply(root: &Path, change: &Change) -> io::Result<()> {
    match change {
        Change::Write(n, seed, length) => fs::write(name(root, *n), noise(*seed, *length)),
        Change::Append(n, seed) => {
            let mut file = fs::OpenOptions::new().append(true).open(name(root, *n))?;
            io::Write::write_all(&mut file, &noise(*seed, 100))
        }
        Change::Remove(n) => fs::remove_file(name(root, *n)),
        Change::Link(a, b) => fs::hard_link(name(root, *a), name(root, *b)),
        Change::Symlink(a, b) => symlink(a.to_string(), name(root, *b)),
        Change::Dir(n) => fs::create_dir(root.join(format!("d{}", n % 3))),
        Change::Mode(n, mode) => {
            let path = name(root, *n);
            // Not through links: they lead to other names.
            match fs::symlink_metadata(&path)?.is_file() {
                true => fs::set_permissions(path, Permissions::from_mode(*mode)),
                false => Ok(()),
            }
        }
        Change::Rename(a, b) => fs::rename(name(root, *a), name(root, *b)),
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, ..ProptestConfig::default() })]

    #[test]
    fn every_moment_comes_back(
        rounds in proptest::collection::vec(proptest::collection::vec(change(), 0..20), 1..6),
    ) {
        let place = Place::new();
        let mut moments = vec![];
        for changes in &rounds {
            for change in changes {
                // What cannot be done is no change.
                let _ = apply(&place.workspace(), change);
            }
            moments.push((place.cut().root, seen(&place.live())));
        }
        for (n, (root, expected)) in moments.iter().enumerate() {
            let back = place.restore(*root, &format!("back-{n}"));
            prop_assert_eq!(&seen(&back), expected);
            let given = place.try_restore(*root, &format!("given-{n}"), true).unwrap();
            prop_assert_eq!(&seen(&given), expected);
        }
        // The same files are the same content, whoever looks at them.
        let fresh = Place { session: SessionId::random(), vault: place.vault.clone(), ..Place::new() };
        let (last, _) = moments.last().unwrap();
        fs::remove_dir_all(fresh.live()).unwrap();
        fs::rename(place.restore(*last, "fresh"), fresh.live()).unwrap();
        prop_assert_eq!(fresh.cut().root, *last);
    }
}

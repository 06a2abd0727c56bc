//! More than a point has.

use super::*;

fn set(path: &Path, name: &str, value: &[u8]) -> bool {
    rustix::fs::setxattr(path, name, value, rustix::fs::XattrFlags::empty()).is_ok()
}

#[test]
fn attributes_that_are_too_many_are_left_out_and_said() {
    let place = Place::new();
    let (file, dir) = (place.workspace().join("file"), place.workspace().join("dir"));
    fs::write(&file, "kept").unwrap();
    fs::create_dir(&dir).unwrap();
    for path in [&file, &dir, &place.workspace()] {
        if !set(path, "user.a", b"kept") || !set(path, "user.b", &[7; 1000]) {
            println!("SKIP: the file system of {} has no attributes", path.display());
            return;
        }
    }
    let limits = Limits { attributes: 500 };
    // Also when nothing is read any more.
    loop {
        let cut = place.cut_within(limits, &nobody).unwrap();
        assert_eq!(cut.left_out.count, 3, "{}", cut.left_out);
        assert!(cut.left_out.to_string().contains("workspace/file (some of its attributes)"));
        if !cut.held {
            let back = place.restore(cut.root, "back");
            assert_same(&place.live(), &back);
            let mut value = [0; 9];
            for path in ["workspace/file", "workspace/dir", "workspace"] {
                let mut get = |name| rustix::fs::getxattr(back.join(path), name, &mut value[..]);
                assert_eq!((get("user.a").unwrap(), get("user.b").is_ok()), (4, false), "{path}");
            }
            return;
        }
    }
}

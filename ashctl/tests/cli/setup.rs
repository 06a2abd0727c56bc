//! `ashctl setup`, from a machine that has nothing to an answer, and once more.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use rustix::process::geteuid;

use crate::bus::{Bus, Ran, ended};
use crate::fake::serve;

/// Encrypts by turning letters around.
const CREDS: &str =
    "case $1 in encrypt) /usr/bin/rev >\"$4\";; decrypt) /usr/bin/rev \"$3\";; esac";

/// Whether root asks, and bubblewrap is here; says so if not.
#[expect(clippy::print_stdout, reason = "make test counts what is skipped")]
pub(crate) fn can_set_up(test: &str) -> bool {
    let can = geteuid().is_root() && Path::new("/usr/bin/bwrap").is_file();
    if !can {
        println!("SKIP {test}: needs root and bubblewrap");
    }
    can
}

pub(crate) fn setup(bus: &Bus, arguments: &[&str]) -> Command {
    bus.program("claude", "echo '2.1.197 (Claude Code)'");
    let mut command = bus.ashctl(&[&["setup"], arguments].concat());
    command.env("ASH_LIBEXEC_DIR", bus.dir.path().join("lib"));
    command.env("ASH_ETC_DIR", bus.dir.path().join("etc"));
    command.arg("--runtime-file").arg(bus.programs().join("claude"));
    command
}

async fn ran(bus: &Bus, arguments: &[&str]) -> Ran {
    ended(setup(bus, &[&["--yes"], arguments].concat())).await
}

fn key_file(bus: &Bus, key: &str) -> String {
    let path = bus.dir.path().join("key");
    fs::write(&path, key).unwrap();
    path.to_str().unwrap().to_owned()
}

pub(crate) fn stored(bus: &Bus) -> (PathBuf, PathBuf) {
    let etc = bus.dir.path().join("etc");
    (etc.join("credstore/ash-model-key"), etc.join("credstore.encrypted/ash-model-key.sealed"))
}

#[tokio::test]
async fn it_goes_from_nothing_to_an_answer() {
    if !can_set_up("it_goes_from_nothing_to_an_answer") {
        return;
    }
    let bus = Bus::start();
    let (daemon, _connection) = serve(&bus).await;
    bus.program("systemd-creds", CREDS);
    let key = key_file(&bus, "sk-ant-1\n");
    let first = ran(&bus, &["--key-file", &key]).await;
    assert_eq!((first.code, &*first.err), (0, ""));
    let (plain, encrypted) = stored(&bus);
    assert_eq!(fs::read_to_string(&encrypted).unwrap().trim(), "1-tna-ks");
    assert_eq!(fs::metadata(&encrypted).unwrap().permissions().mode() & 0o777, 0o600);
    let told = ["Key: stored in ", "Version 2.1.197 is installed, in use", "Service: ashd runs"];
    assert!(told.iter().all(|line| first.out.contains(line)), "{}", first.out);
    assert!(first.out.ends_with("> Hello! What are you for?\nHello\n"), "{}", first.out);

    let again = ran(&bus, &[]).await;
    let told = ["ash-model-key.sealed is there already", "version 2.1.197 is in use", "Hello\n"];
    assert!(again.code == 0 && told.iter().all(|line| again.out.contains(line)), "{}", again.out);

    // Without a key of the host; the one that was there must not win.
    bus.program("systemd-creds", "case $1 in encrypt) echo odd >\"$4\";; *) echo other;; esac");
    let key = key_file(&bus, "sk-ant-2");
    assert_eq!(ran(&bus, &["--key-file", &key, "--json"]).await.code, 0);
    assert_eq!(fs::read_to_string(&plain).unwrap(), "sk-ant-2");
    assert_eq!(fs::metadata(&plain).unwrap().permissions().mode() & 0o777, 0o600);
    assert!(!encrypted.exists());
    let left = fs::read_dir(encrypted.parent().unwrap()).unwrap().count();
    assert_eq!(left, 0, "what could not be encrypted is left");
    assert!(daemon.seen.lock().unwrap().called.ends_with(&["end"]));
}

#[tokio::test]
async fn it_starts_what_does_not_run_and_says_what_it_lacks() {
    if !can_set_up("it_starts_what_does_not_run_and_says_what_it_lacks") {
        return;
    }
    let bus = Bus::start();
    let without = ran(&bus, &[]).await;
    without.check_told(2, "--key-file");
    let key = key_file(&bus, "not a key");
    ran(&bus, &["--key-file", &key]).await.check_told(2, "it must be one line of text");
    let told = bus.dir.path().join("told");
    let script = format!(
        "echo \"$@\" >>{}; case $1 in is-active) echo active;; enable) exit 1;; esac",
        told.display()
    );
    bus.program("systemctl", &script);
    let key = key_file(&bus, "sk-ant-1");
    let failed = ran(&bus, &["--key-file", &key]).await;
    failed.check_told(1, "enable --now");
    let told = fs::read_to_string(told).unwrap();
    assert!(told.contains("restart ash-broker.service\n"), "{told}");
    assert!(told.ends_with("enable --now ashd.service\n"), "{told}");
}

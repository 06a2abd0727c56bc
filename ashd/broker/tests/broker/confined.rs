//! What the running broker could do if somebody took it over: nothing.

use std::fs;
use std::os::unix::process::CommandExt;
use std::process::{Command, Stdio};

use crate::stage::{NOBODY, Stage};

/// What does not try again when the broker says that this is of no use.
const UNIT: &str = include_str!("../../../../systemd/ash-broker.service");

fn status(pid: u32, field: &str) -> String {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix(&format!("{field}:")));
    line.unwrap().split_whitespace().collect::<Vec<_>>().join(" ")
}

#[tokio::test]
async fn the_process_holds_no_privilege() {
    let stage = Stage::bare().await;
    stage.control.granted().await.unwrap();
    let pid = stage.child.id();
    let user = format!("{NOBODY} {NOBODY} {NOBODY} {NOBODY}");
    assert_eq!(status(pid, "Uid"), user);
    assert_eq!(status(pid, "Gid"), user);
    assert_eq!(status(pid, "Groups"), "");
    for set in ["CapInh", "CapPrm", "CapEff", "CapAmb"] {
        assert_eq!(status(pid, set), "0000000000000000", "{set}");
    }
    assert_eq!(status(pid, "NoNewPrivs"), "1");
    assert_eq!(status(pid, "Seccomp"), "2");
    assert_eq!(status(pid, "Seccomp_filters"), "3");
    let limits = fs::read_to_string(format!("/proc/{pid}/limits")).unwrap();
    let core = limits.lines().find(|line| line.starts_with("Max core file size")).unwrap();
    assert_eq!(core.split_whitespace().filter(|word| *word == "0").count(), 2, "{core}");
}

#[test]
fn root_is_refused() {
    let output =
        Command::new(env!("CARGO_BIN_EXE_ash-broker")).stdin(Stdio::null()).output().unwrap();
    assert_eq!(output.status.code(), Some(78));
    assert!(String::from_utf8(output.stderr).unwrap().contains("must not run as root"));
    assert!(UNIT.contains("\nRestartPreventExitStatus=78 243\n"));
}

#[test]
fn another_standard_input_is_refused() {
    let dir = tempfile::Builder::new()
        .permissions(std::os::unix::fs::PermissionsExt::from_mode(0o755))
        .tempdir()
        .unwrap();
    let program = dir.path().join("ash-broker");
    fs::copy(env!("CARGO_BIN_EXE_ash-broker"), &program).unwrap();
    let output = Command::new(program).uid(NOBODY).stdin(Stdio::null()).output().unwrap();
    assert_eq!(output.status.code(), Some(78));
    let told = String::from_utf8(output.stderr).unwrap();
    assert!(told.contains("standard input must be the listening control socket"), "{told}");
}

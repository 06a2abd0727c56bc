//! Completion as shells ask for it.

use std::fs;
use std::os::unix::fs::symlink;
use std::process::Command;

use crate::bus::{Bus, Ran, ended};
use crate::fake::{ID, serve};

/// What may stand in the last of these words.
async fn offered(bus: &Bus, words: &[&str]) -> Vec<String> {
    let mut command = bus.ashctl(&[&["--"], words].concat());
    command.env("ASHCTL_COMPLETE", "bash").env("_CLAP_IFS", "\n");
    command.env("_CLAP_COMPLETE_INDEX", (words.len() - 1).to_string());
    let ran = ended(command).await;
    assert_eq!((ran.code, &*ran.err), (0, ""), "{words:?}");
    ran.out.lines().map(str::to_owned).collect()
}

#[tokio::test]
async fn names_are_offered() {
    let bus = Bus::start();
    let _daemon = serve(&bus).await;
    for words in [
        &["ashctl", "chat", "h"][..],
        &["ashctl", "agent", "info", "he"],
        &["ashctl", "session", "list", "--agent", "he"],
    ] {
        assert_eq!(offered(&bus, words).await, ["hello"], "{words:?}");
    }
    for words in [
        &["ashctl", "session", "info", "3f"][..],
        &["ashctl", "logs", "3f"],
        &["ashctl", "chat", "hello", "-s", "3f"],
        &["ashctl", "key", "revoke", "3f"],
    ] {
        assert_eq!(offered(&bus, words).await, [ID], "{words:?}");
    }
    assert_eq!(offered(&bus, &["ashctl", "sess"]).await, ["session"]);
}

#[tokio::test]
async fn without_a_daemon_there_is_silence() {
    let bus = Bus::start();
    assert!(offered(&bus, &["ashctl", "agent", "info", "h"]).await.is_empty());
}

#[tokio::test]
async fn bash_gets_them_from_the_script() {
    let bus = Bus::start();
    let _daemon = serve(&bus).await;
    fs::create_dir_all(bus.programs()).unwrap();
    symlink(env!("CARGO_BIN_EXE_ashctl"), bus.programs().join("ashctl")).unwrap();
    let mut command = Command::new("/bin/bash");
    command.env_clear().env("PATH", bus.programs()).env("ASH_BUS_ADDRESS", bus.address());
    command.arg("--norc").arg("-c").arg(
        "source /dev/stdin <<<\"$(ASHCTL_COMPLETE=bash ashctl)\"\n\
         COMP_WORDS=(ashctl agent info he) COMP_CWORD=3 COMP_TYPE=9\n\
         _clap_complete_ashctl ashctl he info && printf '%s\\n' \"${COMPREPLY[@]}\"",
    );
    let Ran { code, out, err } = ended(command).await;
    assert_eq!((code, out.trim()), (0, "hello"), "{err}");
}

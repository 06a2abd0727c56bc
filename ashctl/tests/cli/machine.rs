//! The commands about the machine.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::{Value, json};

use crate::bus::{Bus, Ran, ended};
use crate::fake::{ID, serve};

/// A program that says that it is the CLI, of the version that is pinned.
const CLI: &str = "echo '2.1.197 (Claude Code)'";

/// Whether a program can be tried in a sandbox here; says so if not.
#[expect(clippy::print_stdout, reason = "make test counts what is skipped")]
fn can_confine(test: &str) -> bool {
    let can = rustix::process::geteuid().is_root() && Path::new("/usr/bin/bwrap").is_file();
    if !can {
        println!("SKIP {test}: needs root and bubblewrap");
    }
    can
}

fn runtime(bus: &Bus, arguments: &[&str]) -> Command {
    let mut command = bus.ashctl(&[&["runtime"], arguments].concat());
    command.env("ASH_LIBEXEC_DIR", bus.dir.path().join("lib"));
    command
}

async fn ran(bus: &Bus, arguments: &[&str]) -> Ran {
    ended(runtime(bus, arguments)).await
}

/// A file of this name that is such a program.
fn cli(bus: &Bus, name: &str, script: &str) -> String {
    bus.program(name, script);
    bus.programs().join(name).to_str().unwrap().to_owned()
}

/// `ashctl` as `make install` installs it.
fn copied_to(prefix: &Path) -> PathBuf {
    let path = prefix.join("bin/ashctl");
    fs::create_dir_all(prefix.join("bin")).unwrap();
    fs::copy(env!("CARGO_BIN_EXE_ashctl"), &path).unwrap();
    path
}

fn program(path: &Path, content: &str) {
    fs::write(path, content).unwrap();
    fs::set_permissions(path, fs::Permissions::from_mode(0o755)).unwrap();
}

#[tokio::test]
async fn versions_are_tried_installed_used_and_removed() {
    if !can_confine("versions_are_tried_installed_used_and_removed") {
        return;
    }
    let bus = Bus::start();
    let asked = "test \"$(/usr/bin/id -u)\" = 65534 && ! test -w / && echo '2.1.9 (Claude Code)'";
    let (pinned, other) = (cli(&bus, "claude", CLI), cli(&bus, "other", asked));
    let installed = ran(&bus, &["install", "--file", &pinned]).await;
    assert_eq!((installed.code, &*installed.err), (0, ""));
    assert_eq!(installed.out, "Version 2.1.197 is installed, in use\n");
    let again = ran(&bus, &["install", "--file", &pinned]).await;
    assert_eq!((again.code, &*again.out), (0, "Version 2.1.197 is installed already, in use\n"));
    let second = ran(&bus, &["install", "--file", &other]).await;
    assert_eq!(second.code, 0, "{}", second.err);
    assert!(second.out.contains("2.1.9 is installed, not in use"), "{}", second.out);
    assert!(second.err.contains("is tried with version 2.1.197"), "{}", second.err);

    assert_eq!(ran(&bus, &["use", "2.1.9"]).await.code, 0);
    let link = bus.dir.path().join("lib/claude");
    assert_eq!(fs::read_link(link).unwrap(), Path::new("runtime/2.1.9/claude"));
    let refused = ran(&bus, &["remove", "2.1.9"]).await;
    refused.check_told(5, "in use");
    assert_eq!(ran(&bus, &["remove", "2.1.197"]).await.code, 0);
    ran(&bus, &["remove", "2.1.197"]).await.check_told(4, "2.1.197 is not installed");
    let listed: Value = serde_json::from_str(&ran(&bus, &["list", "--json"]).await.out).unwrap();
    assert_eq!((&listed[0]["version"], &listed[0]["inUse"]), (&"2.1.9".into(), &true.into()));
    assert_eq!(listed.as_array().unwrap().len(), 1);
}

#[tokio::test]
async fn programs_are_found_below_the_prefix() {
    let bus = Bus::start();
    let prefix = bus.dir.path().canonicalize().unwrap().join("local");
    let shelf = prefix.join("lib/ash/runtime/2.1.9");
    fs::create_dir_all(&shelf).unwrap();
    program(&shelf.join("claude"), "");
    program(&prefix.join("lib/ash/ash-bridge"), "");
    let mut command = Command::new(copied_to(&prefix));
    command.env_clear().args(["runtime", "list", "--json"]);
    let listed: Value = serde_json::from_str(&ended(command).await.out).unwrap();
    assert_eq!(listed[0]["path"], shelf.join("claude").to_str().unwrap());
}

#[tokio::test]
async fn npm_fetches_a_version() {
    if !can_confine("npm_fetches_a_version") {
        return;
    }
    let bus = Bus::start();
    let without = ran(&bus, &["install"]).await;
    without.check_told(1, "--file");
    bus.program(
        "npm",
        "while [ $# -gt 0 ]; do case $1 in --ignore-scripts) safe=1;; --prefix) into=$2; shift;; \
         esac; last=$1; shift; done; test -n \"$safe\" || exit 9\n\
         case $last in *@2.1.197) ;; *) echo 'npm error notarget no such version' >&2; exit 1;; \
         esac\n\
         /bin/mkdir -p \"$into/node_modules/${last%@*}\"\n\
         program=$into/node_modules/${last%@*}/claude\n\
         printf '#!/bin/sh\\necho \"2.1.197 (Claude Code)\"\\n' >\"$program\"",
    );
    let absent = ran(&bus, &["install", "9.9.9"]).await;
    absent.check_told(1, "no such version");
    let installed = ran(&bus, &["install"]).await;
    assert_eq!((installed.code, &*installed.err), (0, ""));
    ran(&bus, &["install", "../x"]).await.check_told(2, "is no version");
}

#[tokio::test]
async fn what_is_not_the_cli_is_not_installed() {
    if !can_confine("what_is_not_the_cli_is_not_installed") {
        return;
    }
    let bus = Bus::start();
    for (script, code, word) in [
        ("echo hello", 5, "says \"hello\""),
        ("echo oh no >&2; exit 3", 1, "does not run in a sandbox: oh no"),
        (
            "while echo 'without end and more than anybody wants to read'; do :; done",
            1,
            "does not run",
        ),
        ("echo '../.. (Claude Code)'", 5, "says"),
    ] {
        let file = cli(&bus, "claude", script);
        let refused = ran(&bus, &["install", "--file", &file]).await;
        refused.check_told(code, word);
        assert!(refused.err.contains(&file) && !refused.err.contains(".making"), "{}", refused.err);
    }
    let gone = ran(&bus, &["install", "--file", "/nonexistent"]).await;
    gone.check_told(1, "/nonexistent");
    let left = fs::read_dir(bus.dir.path().join("lib/runtime")).unwrap().count();
    assert_eq!((left, bus.dir.path().join("lib/claude").exists()), (0, false));
}

#[tokio::test]
async fn doctor_has_a_finding_for_everything() {
    let bus = Bus::start();
    let _daemon = serve(&bus).await;
    let ran = bus.run(&["doctor", "--json"]).await;
    let document: Value = serde_json::from_str(&ran.out).unwrap();
    let findings = document["findings"].as_array().unwrap();
    let is_fit = findings.iter().all(|finding| finding["grade"] != "missing");
    assert_eq!((findings.len(), &document["ok"]), (19, &is_fit.into()));
    assert_eq!(ran.code, i32::from(!is_fit), "{}", ran.err);
    for finding in findings.iter().filter(|finding| finding["grade"] != "ok") {
        assert!(finding["mend"].is_string(), "{finding}");
    }
    let daemon = findings.iter().find(|finding| finding["name"] == "Daemon").unwrap();
    assert_eq!(daemon["detail"], "version 9.8.7 answers; it misses: no limits");
}

#[tokio::test]
async fn the_service_manager_is_asked_by_its_own_program() {
    let bus = Bus::start();
    let without = bus.run(&["restart"]).await;
    without.check_told(1, "need systemd");
    bus.program("systemctl", "case $1 in is-system-running) ;; *) echo \"$@\";; esac");
    for verb in ["start", "stop", "restart"] {
        assert_eq!(bus.run(&[verb]).await.out, format!("{verb} ashd.service\n"));
    }
    bus.program("systemctl", "case $1 in is-system-running) echo offline;; esac; exit 1");
    for verb in ["start", "stop", "restart"] {
        let idle = bus.run(&[verb]).await;
        assert_eq!((idle.code, idle.err.lines().count()), (1, 1), "{}", idle.err);
        assert!(idle.err.contains("systemd does not run this machine"), "{}", idle.err);
    }
}

#[tokio::test]
async fn what_the_service_manager_says_of_an_absent_daemon_is_told() {
    let bus = Bus::start();
    bus.program("systemctl", "case $1 in is-active) echo failed; exit 3;; esac");
    let status = bus.run(&["status"]).await;
    let sentence = "; systemctl says that ashd.service is failed\n";
    assert_eq!((status.code, status.err.ends_with(sentence)), (3, true), "{}", status.err);
    let script =
        "case $1 in is-active) echo activating; exit 3;; show) echo the port is taken;; esac";
    bus.program("systemctl", script);
    let status = bus.run(&["status"]).await;
    let sentence = "; systemctl says that ashd.service is activating: the port is taken\n";
    assert_eq!((status.code, status.err.ends_with(sentence)), (3, true), "{}", status.err);
}

#[tokio::test]
async fn the_configuration_is_looked_at_with_the_environment_of_the_unit() {
    let bus = Bus::start();
    let prefix = bus.dir.path().canonicalize().unwrap().join("local");
    let ashctl = copied_to(&prefix);
    fs::create_dir(prefix.join("sbin")).unwrap();
    program(
        &prefix.join("sbin/ashd"),
        "#!/bin/sh\necho \"$* <$ASH_SERVICES> <$ASH_A> <$ASH_B> <$ASH_C>\"",
    );
    let (there, gone) = (prefix.join("ashd.env"), prefix.join("gone.env"));
    fs::write(&there, "# ours\nASH_C='of the file'\nASH_B=\"of the file\"\nASH_A=no\n").unwrap();
    let busctl = |files: &Value| {
        let script = format!(
            "case $*' ' in *'/unit/ashd_2eservice '*' Environment EnvironmentFiles ') ;; *) exit 1;; \
             esac\n\
             echo '{{\"type\":\"as\",\"data\":[\"ASH_SERVICES=true\",\"ASH_A=no\",\"ASH_B=a \\\"b\\\" =c\"]}}'\n\
             echo '{{\"type\":\"a(sb)\",\"data\":{files}}}'"
        );
        bus.program("busctl", &script);
        bus.programs()
    };
    let look = |path| {
        let mut command = Command::new(&ashctl);
        command.env_clear().env("PATH", path).env("ASH_A", "ours").args(["config", "check"]);
        ended(command)
    };
    let with = look(busctl(&json!([]))).await;
    assert_eq!(with.out, "config check <true> <ours> <a \"b\" =c> <>\n", "{}", with.err);
    let files = look(busctl(&json!([[there, false], [gone, true]]))).await;
    let wanted = "config check <true> <ours> <of the file> <of the file>\n";
    assert_eq!((&*files.out, &*files.err), (wanted, ""));
    let missing = look(busctl(&json!([[gone, false]]))).await;
    assert_eq!((missing.code, &*missing.out), (78, ""));
    assert!(missing.err.contains("gone.env is missing"), "{}", missing.err);
    let unseen = look(busctl(&json!([[prefix.join("*.env"), false], [prefix, false]]))).await;
    assert_eq!((unseen.out, unseen.err.lines().count()), (with.out, 2), "{}", unseen.err);
    let mut restore = Command::new(&ashctl);
    restore.env_clear().env("PATH", busctl(&json!([]))).env("ASH_A", "ours");
    restore.args(["restore", "--check", "--json", "/srv/backup"]);
    let wanted = "restore --check --json -- /srv/backup <true> <ours> <a \"b\" =c> <>\n";
    assert_eq!(ended(restore).await.out, wanted);
    let without = look("/nonexistent".into()).await;
    assert_eq!(without.out, "config check <> <ours> <> <>\n", "{}", without.err);
}

#[tokio::test]
async fn the_journal_is_shown_by_its_own_program() {
    let bus = Bus::start();
    bus.run(&["logs"]).await.check_told(1, "journalctl cannot be run");
    bus.program("journalctl", "echo \"$@\"; exit 7");
    let told = format!("--follow --lines=5 ASH_SESSION={ID}\n");
    let ran = bus.run(&["logs", ID, "-f", "-n", "5"]).await;
    assert_eq!((ran.code, ran.out.ends_with(&told)), (7, true), "{}", ran.err);
    for wrong in ["no id", "3f0"] {
        bus.run(&["logs", wrong]).await.check_told(2, "is no id of a session");
    }
    let absent = bus.run(&["logs", "3f0c"]).await;
    assert_eq!((absent.code, &*absent.out), (3, ""));
    assert!(absent.err.ends_with("; a whole id can do without ashd\n"), "{}", absent.err);
    let _daemon = serve(&bus).await;
    let begun = bus.run(&["logs", "3f0c", "-f", "-n", "5"]).await;
    assert_eq!((begun.code, begun.out.ends_with(&told)), (7, true), "{}", begun.err);
    let none = bus.run(&["logs", "4f0c"]).await;
    assert_eq!((none.code, &*none.out), (4, ""), "{}", none.err);
}

#[tokio::test]
async fn another_machine_is_reached_with_ssh() {
    let bus = Bus::start();
    let without = bus.run(&["-H", "root@there", "status"]).await;
    without.check_told(1, "openssh-client");
    bus.program("ssh", "for word; do echo \"<$word>\"; done; exit 4");
    let ran = bus.run(&["-H", "root@there", "chat", "hello", "it's"]).await;
    assert_eq!(ran.out, "<-->\n<root@there>\n<ashctl 'chat' 'hello' 'it'\\''s'>\n");
    assert_eq!(ran.code, 4);
    for host in ["-oProxyCommand=true", ""] {
        let refused = bus.run(&[&format!("--host={host}"), "status"]).await;
        refused.check_told(2, "is no host");
    }
}

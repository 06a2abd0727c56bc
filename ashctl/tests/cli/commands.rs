//! What the commands print and do.

use std::collections::{BTreeMap, HashMap};
use std::fs;

use serde_json::{Value, json};

use crate::bus::Bus;
use crate::fake::{ID, serve};

async fn printed(bus: &Bus, arguments: &[&str]) -> String {
    let ran = bus.run(arguments).await;
    assert_eq!((ran.code, ran.err.as_str()), (0, ""), "{arguments:?}");
    ran.out
}

#[tokio::test]
async fn people_read_tables() {
    let bus = Bus::start();
    let _daemon = serve(&bus).await;
    let mut all = String::new();
    for arguments in [
        &["status"][..],
        &["agent", "list"],
        &["agent", "info", "hello"],
        &["agent", "config", "hello"],
        &["agent", "config", "hello", "systemPrompt=append"],
        &["session", "list"],
        &["session", "info", ID],
        &["session", "messages", ID],
        &["session", "logs", ID],
        &["session", "checkpoint", "list", ID],
        &["session", "pause", ID],
        &["session", "interrupt", ID],
        &["session", "end", ID],
        &["top"],
        &["agent", "delete", "hello"],
        &["key", "create", "ci"],
        &["key", "list"],
        &["key", "revoke", ID],
        &["snapshot", "check"],
        &["snapshot", "collect"],
        &["snapshot", "collect", "--preview"],
    ] {
        let text = printed(&bus, arguments).await;
        all += &format!("$ ashctl {}\n{text}\n", arguments.join(" "));
    }
    insta::assert_snapshot!(all);
}

#[tokio::test]
async fn programs_read_json() {
    let bus = Bus::start();
    let _daemon = serve(&bus).await;
    let mut all = String::new();
    for arguments in [
        &["--json", "status"][..],
        &["agent", "list", "--json"],
        &["agent", "info", "hello", "--json"],
        &["agent", "config", "hello", "--json"],
        &["session", "list", "--json"],
        &["session", "info", ID, "--json"],
        &["session", "messages", ID, "--json"],
        &["session", "logs", ID, "--json"],
        &["session", "create", "hello", "--json"],
        &["top", "--json"],
        &["session", "end", ID, "--purge", "--json"],
        &["key", "create", "ci", "--scope", "manage", "--json"],
        &["key", "list", "--json"],
        &["key", "revoke", ID, "--json"],
        &["session", "checkpoint", "list", ID, "--json"],
        &["snapshot", "check", "--json"],
        &["snapshot", "collect", "--json"],
    ] {
        for line in printed(&bus, arguments).await.lines() {
            let document: Value = serde_json::from_str(line).unwrap();
            all += &format!("$ ashctl {}\n{document:#}\n", arguments.join(" "));
        }
    }
    insta::assert_snapshot!(all);
}

#[tokio::test]
async fn the_exit_code_says_how_bad_it_is() {
    let bus = Bus::start();
    let _daemon = serve(&bus).await;
    let ran = bus.run(&["fsck"]).await;
    assert_eq!((ran.code, ran.err.as_str()), (10, ""));
    assert_eq!(
        ran.out,
        "a session has ended and was not put away; mend it\n\
         1 difference; 12 chunks of checkpoints looked at\n"
    );
    let ran = bus.run(&["fsck", "--deep", "--json"]).await;
    assert_eq!(ran.code, 11);
    let document: Value = serde_json::from_str(&ran.out).unwrap();
    assert_eq!(document["differences"][0]["mending"], "by-hand");
    assert_eq!(document["differences"][1]["sessionId"], ID);
}

#[tokio::test]
async fn a_folder_is_deployed_with_its_environment() {
    let bus = Bus::start();
    let (daemon, _connection) = serve(&bus).await;
    let folder = bus.dir.path().join("my agent");
    fs::create_dir(&folder).unwrap();
    for (name, text) in [("CLAUDE.md", "You help."), (".env", "A=1\nB=2"), (".env.local", "B=3")] {
        fs::write(folder.join(name), text).unwrap();
    }
    let path = folder.to_str().unwrap();
    let said = printed(&bus, &["deploy", path, "-e", "C=4"]).await;
    assert_eq!(said, "Deployed agent my-agent, version 4 (1 files)\n  environment: A B C\n");
    let deployed = daemon.seen.lock().unwrap().deployed.pop().unwrap();
    let env = [("A", "1"), ("B", "3"), ("C", "4")].map(|(key, value)| (key.into(), value.into()));
    assert_eq!(deployed, ("my-agent".into(), vec!["CLAUDE.md".into()], HashMap::from(env)));
    let said = printed(&bus, &["deploy", path, "-n", "x", "--json"]).await;
    let document: Value = serde_json::from_str(&said).unwrap();
    assert_eq!(document, json!({"name": "x", "version": 4, "files": 1}));
}

#[tokio::test]
async fn a_folder_is_deployed_with_its_config() {
    let bus = Bus::start();
    let (daemon, _connection) = serve(&bus).await;
    let folder = bus.dir.path().join("helper");
    fs::create_dir(&folder).unwrap();
    fs::write(folder.join("CLAUDE.md"), "You help.").unwrap();
    let (json, toml) = (bus.dir.path().join("config.json"), bus.dir.path().join("config.toml"));
    fs::write(&json, r#"{"model": "m-2", "allowedTools": ["Bash"]}"#).unwrap();
    fs::write(&toml, "model = 'm-2'\nallowedTools = ['Bash']\n").unwrap();
    let path = folder.to_str().unwrap();
    for config in [&json, &toml] {
        printed(&bus, &["deploy", path, "--config", config.to_str().unwrap()]).await;
        let sent = daemon.seen.lock().unwrap().deployed_configs.pop().unwrap().unwrap();
        let sent: Value = serde_json::from_str(&sent).unwrap();
        assert_eq!(sent, json!({"model": "m-2", "allowedTools": ["Bash"]}));
    }
    printed(&bus, &["deploy", path]).await;
    assert_eq!(daemon.seen.lock().unwrap().deployed_configs.pop(), Some(None));
    fs::write(&json, "model").unwrap();
    let refused = bus.run(&["deploy", path, "-c", json.to_str().unwrap()]).await;
    refused.check_told(5, "config.json: it is no JSON");
    assert_eq!(daemon.seen.lock().unwrap().deployed.len(), 3);
}

#[tokio::test]
async fn a_directory_is_handed_over_for_a_backup() {
    let bus = Bus::start();
    let _daemon = serve(&bus).await;
    let dir = bus.dir.path().join("backup");
    let path = dir.to_str().unwrap();
    let said = printed(&bus, &["backup", path]).await;
    let wanted = "Saved 4 sessions as of then: 12 files with 3.0MiB, of which 1.0MiB are new\n\
                  1 sessions that were being made are not in it\n\
                  2 sessions could not be saved: they are in it as they were saved last, and \
                  `journalctl -u ashd` says why\n";
    assert_eq!(said, wanted);
    let made = printed(&bus, &["backup", path, "--json"]).await;
    let made = serde_json::from_str::<Value>(&made).unwrap();
    assert_eq!((&made["leftOut"], &made["stale"]), (&json!(1), &json!(2)));
    std::os::unix::fs::symlink("/", bus.dir.path().join("open")).unwrap();
    let refused = bus.run(&["backup", bus.dir.path().join("open").to_str().unwrap()]).await;
    refused.check_failed(5, "open to others");
    let refused = bus.run(&["backup", "/dev/null"]).await;
    refused.check_told(2, "/dev/null cannot be used");
    let pipe = bus.dir.path().join("pipe");
    rustix::fs::mkfifoat(rustix::fs::CWD, &pipe, rustix::fs::Mode::RUSR).unwrap();
    let refused = bus.run(&["backup", pipe.to_str().unwrap()]).await;
    refused.check_told(2, "pipe cannot be used");
    let refused = bus.run(&["backup", bus.dir.path().join("not/there").to_str().unwrap()]).await;
    refused.check_told(2, "not/there cannot be used");
}

#[tokio::test]
async fn tenants_are_deleted() {
    let bus = Bus::start();
    let _daemon = serve(&bus).await;
    let said = printed(&bus, &["tenant", "delete", "acme"]).await;
    assert_eq!(said, "Deleted tenant acme: 3 sessions, 2 agents, 1 API keys\n");
    let document = printed(&bus, &["tenant", "delete", "acme", "--json"]).await;
    let wanted = json!({"deleted": "acme", "sessions": 3, "agents": 2, "keys": 1});
    assert_eq!(serde_json::from_str::<Value>(&document).unwrap(), wanted);
    bus.run(&["tenant", "delete", "other"]).await.check_failed(4, "Tenant not found");
}

#[tokio::test]
async fn a_session_is_found_by_how_only_its_id_begins() {
    let bus = Bus::start();
    let (daemon, _connection) = serve(&bus).await;
    let id = |number: u32| format!("{number:08x}-0c3e-4b1e-9a57-2f1f0e9d8c7b");
    daemon.newer.lock().unwrap().extend((0..1500).map(id));
    let info = async |id: &str| bus.run(&["session", "info", id, "--json"]).await;
    let whole = info(ID).await;
    assert_eq!((whole.code, daemon.seen.lock().unwrap().listed), (0, 0), "{}", whole.err);
    for beginning in ["3f0c", "3F0C6A52-0C", &ID[..35]] {
        assert_eq!(info(beginning).await.out, whole.out, "{beginning}");
    }
    assert!(printed(&bus, &["session", "follow", "3f0c"]).await.ends_with("Hello\n"));
    let other = bus.run(&["chat", "other", "hi", "-s", "3f0c"]).await;
    other.check_failed(2, &format!("session {ID} belongs to agent hello"));

    let none = info("4f0c").await;
    none.check_failed(4, "no session's id begins with 4f0c; see `ashctl session list`");
    let several = info("00000").await;
    assert_eq!((several.code, several.err.lines().count()), (4, 1), "{}", several.err);
    let sentence = format!("ashctl: the ids of several sessions begin with 00000: {}, ", id(0));
    assert!(several.err.starts_with(&sentence), "{}", several.err);
    assert!(
        several.err.contains(&format!("{} and 1495 more; give more", id(4))),
        "{}",
        several.err
    );
    info("00000010").await.check_failed(4, "it does not exist any more");
    // The daemon says what it thinks of what says too little.
    let listed = daemon.seen.lock().unwrap().listed;
    for little in ["3f0", "3g0c", ""] {
        assert_eq!(info(little).await.code, 4, "{little:?}");
    }
    assert_eq!(daemon.seen.lock().unwrap().listed, listed);
}

#[tokio::test]
async fn a_checkpoint_is_found_by_its_name_or_by_how_only_its_id_begins() {
    let bus = Bus::start();
    let (daemon, _connection) = serve(&bus).await;
    let id = |beginning: &str| format!("{beginning}-0c3e-4b1e-9a57-2f1f0e9d8c7b");
    let points = [("beef0001", ""), ("beef0002", "kept"), ("cafe0001", ""), ("00000001", "cafe")];
    daemon.points.lock().unwrap().extend(points.map(|(beginning, name)| (id(beginning), name)));
    let used = || daemon.seen.lock().unwrap().checkpoints.pop().unwrap();
    for (said, meant) in [
        ("beef0001", &*id("beef0001")),
        ("BEEF0002-0", &*id("beef0002")),
        ("kept", "kept"),
        ("cafe", "cafe"),
        ("cafe0", &*id("cafe0001")),
        (&*id("beef0001"), &*id("beef0001")),
    ] {
        printed(&bus, &["session", "restore", "3f0c", said]).await;
        assert_eq!(used(), meant, "{said}");
    }
    printed(&bus, &["session", "fork", ID, "--from", "beef0001"]).await;
    assert_eq!(used(), id("beef0001"));
    printed(&bus, &["session", "fork", ID]).await;
    assert_eq!(used(), "");
    let removed = printed(&bus, &["session", "checkpoint", "delete", ID, "cafe0"]).await;
    assert_eq!(removed, format!("Removed the checkpoint {}\n", id("cafe0001")));
    assert_eq!(used(), id("cafe0001"));

    let refused = bus.run(&["session", "restore", ID, "beef"]).await;
    let sentence = "ashctl: the ids of several checkpoints begin with beef: beef0001-";
    assert_eq!((refused.code, refused.err.starts_with(sentence)), (4, true), "{}", refused.err);
    let refused = bus.run(&["session", "restore", ID, "dead"]).await;
    refused.check_told(4, "called dead or has");
    assert!(daemon.seen.lock().unwrap().checkpoints.is_empty());
}

#[tokio::test]
async fn a_key_is_found_by_how_only_its_id_begins() {
    let bus = Bus::start();
    let _daemon = serve(&bus).await;
    let revoked = printed(&bus, &["key", "revoke", "3f0c"]).await;
    assert_eq!(revoked, format!("Revoked key {ID}\n"));
    let refused = bus.run(&["key", "revoke", "4f0c"]).await;
    refused.check_failed(4, "no key's id begins with 4f0c; see `ashctl key list`");
}

#[tokio::test]
async fn settings_travel_as_json() {
    let bus = Bus::start();
    let (daemon, _connection) = serve(&bus).await;
    let create = ["session", "create", "hello", "-m", "m-2", "-e", "K=v=w"];
    assert_eq!(printed(&bus, &create).await, format!("{ID}\n"));
    let settings = daemon.seen.lock().unwrap().settings.pop().unwrap();
    let settings: Value = serde_json::from_str(&settings).unwrap();
    assert_eq!(settings, json!({"model": "m-2", "extraEnv": {"K": "v=w"}}));
}

#[tokio::test]
async fn changes_of_a_config_travel_as_json() {
    let bus = Bus::start();
    let (daemon, _connection) = serve(&bus).await;
    let config = ["agent", "config", "hello"];
    let set = ["model=m-2", "permissionMode=", "allowedTools=[\"Bash\"]", "note=a b"];
    printed(&bus, &[&config[..], &set[..]].concat()).await;
    let sent = daemon.seen.lock().unwrap().configured.pop().unwrap();
    let sent: Value = serde_json::from_str(&sent).unwrap();
    let wanted = json!({"model": "m-2", "permissionMode": null, "allowedTools": ["Bash"],
        "note": "a b"});
    assert_eq!(sent, wanted);
    let ran = bus.run(&[&config[..], &["systemPrompt=nonsense"]].concat()).await;
    ran.check_told(5, "expected `replace`");
    bus.run(&[&config[..], &["model"]].concat()).await.check_told(2, "no KEY=VALUE");
}

#[tokio::test]
async fn an_environment_is_given_whole_and_shown_by_its_names() {
    let bus = Bus::start();
    let (daemon, _connection) = serve(&bus).await;
    let env = ["agent", "env", "hello"];
    assert_eq!(printed(&bus, &env).await, "");
    let file = bus.dir.path().join("some.env");
    fs::write(&file, "A=1\nB='two words'\n").unwrap();
    let from_file = ["--file", file.to_str().unwrap()];
    let set = [&env[..], &from_file[..], &["B=3", "C="]].concat();
    assert_eq!(printed(&bus, &set).await, "A\nB\nC\n");
    let given = daemon.seen.lock().unwrap().environments.last().cloned().unwrap();
    let wanted = [("A", "1"), ("B", "3"), ("C", "")];
    assert_eq!(given, BTreeMap::from(wanted.map(|(name, value)| (name.into(), value.into()))));
    let shown = printed(&bus, &[&env[..], &["--json"]].concat()).await;
    let wanted = json!({"name": "hello", "envNames": ["A", "B", "C"]});
    assert_eq!(serde_json::from_str::<Value>(&shown).unwrap(), wanted);
    assert_eq!(printed(&bus, &[&env[..], &["--clear"]].concat()).await, "");

    fs::write(&file, "A=1\nnonsense\n").unwrap();
    let refused = bus.run(&[&env[..], &from_file[..]].concat()).await;
    refused.check_told(5, "some.env, line 2: ");
    let both = bus.run(&[&env[..], &["--clear", "A=1"]].concat()).await;
    both.check_told(2, "cannot be used with");
    bus.run(&["agent", "env", "nobody", "A=1"]).await.check_failed(4, "Agent not found");
    let seen = daemon.seen.lock().unwrap();
    assert_eq!((seen.environments.len(), seen.environments[1].len()), (2, 0));
}

#[tokio::test]
async fn what_happened_is_printed() {
    let bus = Bus::start();
    let _daemon = serve(&bus).await;
    let events = ["session", "events", ID];
    let created = "--- 1 lifecycle then\n{\"action\":\"created\"}\n";
    let (said, paused) =
        ("--- 2 user then\nhi\n", "--- 3 lifecycle then\n{\"action\":\"paused\"}\n");
    for (options, wanted) in [
        (&["--after", "1"][..], [said, paused].concat()),
        (&[], [created, said, paused].concat()),
        (&["--limit", "2"], [created, said].concat()),
        (&["--kind", "lifecycle"], [created, paused].concat()),
        (&["--kind", "lifecycle", "--kind", "user", "--after", "2"], paused.to_owned()),
        (&["--after", "3"], String::new()),
    ] {
        assert_eq!(printed(&bus, &[&events[..], options].concat()).await, wanted, "{options:?}");
    }
    let document = printed(&bus, &[&events[..], &["--kind", "user", "--json"]].concat()).await;
    let data = json!({"type": "user", "content": "hi"});
    let wanted = json!([{"seq": 2, "kind": "user", "turn": "t-1", "data": data, "at": "then"}]);
    assert_eq!(serde_json::from_str::<Value>(&document).unwrap(), wanted);
    let refused = bus.run(&[&events[..], &["--kind", "nonsense"]].concat()).await;
    refused.check_told(5, "kinds must be of");
}

#[tokio::test]
async fn commands_run_with_their_output_and_code() {
    let bus = Bus::start();
    let _daemon = serve(&bus).await;
    let exec = |command| ["session", "exec", ID, command];
    let ran = bus.run(&exec("ls")).await;
    assert_eq!((ran.code, &*ran.out, &*ran.err), (3, "out\u{1b}\n", "err\n"));
    let ran = bus.run(&exec("late")).await;
    assert_eq!((ran.code, &*ran.err), (124, "err\nashctl: the command ran out of time\n"));
    let ran = bus.run(&exec("gone")).await;
    assert_eq!((ran.code, &*ran.err), (1, "err\nashctl: the sandbox was lost\n"));
    let ran = bus.run(&exec("die")).await;
    assert_eq!((ran.code, ran.err.ends_with("before the command ended\n")), (1, true));
    let ran = bus.run(&["session", "exec", ID, "ls", "--json"]).await;
    let document: Value = serde_json::from_str(&ran.out).unwrap();
    let output = json!({"exitCode": 3, "timedOut": false, "truncated": false,
        "stdout": "out\u{1b}\n", "stderr": "err\n"});
    assert_eq!((ran.code, document), (3, output));
}

//! The interfaces on the bus, with the tools that every machine has.

use std::fs;
use std::io::{BufRead as _, BufReader};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use ash_journey::{Api, Ash, Client as _, Options, programs, skip};
use rustix::process::{Pid, Resource, Rlimit, getrlimit, prlimit};
use serde_json::{Value, json};

use crate::support::Talk;

const SOON: Duration = Duration::from_secs(60);

/// Whether a tool is here; says aloud that `test` is skipped when it is not.
fn has(tool: &str, test: &str) -> bool {
    let found = Command::new(tool).arg("help").output().is_ok();
    if !found {
        skip(test, &format!("there is no {tool} on this machine"));
    }
    found
}

/// Runs a script against the daemon's bus, and returns what it prints.
fn script(ash: &Ash, script: &str) -> Result<String> {
    let output = Command::new("bash")
        .args(["-euo", "pipefail", "-c", script])
        .env("DBUS_SYSTEM_BUS_ADDRESS", ash.bus())
        .current_dir(programs::repository())
        .output()?;
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    let complaint = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "{}\n{said}\n{complaint}", output.status);
    Ok(said)
}

/// The examples of the reference that use this tool.
fn examples(tool: &str) -> Result<String> {
    let reference = fs::read_to_string(programs::repository().join("docs/dbus.md"))?;
    let mut blocks = reference.split("```sh\n").skip(1).filter_map(|rest| rest.split("```").next());
    let found = blocks.find(|block| block.contains(&format!("{tool} call")));
    Ok(found.with_context(|| format!("the reference has no examples with {tool}"))?.to_owned())
}

#[test]
fn the_examples_of_the_reference_work() -> Result<()> {
    let talk = Talk::begin(Options::stub())?;
    if has("busctl", "the_examples_of_the_reference_work") {
        let said = script(&talk.ash, &examples("busctl")?)?;
        for promised in ["\"hello\"", "a(tsss)", "Hello", "\"ash_"] {
            ensure!(said.contains(promised), "{promised:?} is not in\n{said}");
        }
    }
    if has("gdbus", "the_examples_of_the_reference_work") {
        let said = script(&talk.ash, &examples("gdbus")?)?;
        for promised in [
            "(objectpath '/org/ashd/Ash1/agents/hello', uint32 2)",
            "'name': <'hello'>",
            "handle 0",
            "interface org.ashd.Ash1.Manager {",
        ] {
            ensure!(said.contains(promised), "{promised:?} is not in\n{said}");
        }
    }
    talk.ash.finish()
}

/// What a file with a description begins with.
const HEAD: &str = "\
<!DOCTYPE node PUBLIC \"-//freedesktop//DTD D-BUS Object Introspection 1.0//EN\"
 \"http://www.freedesktop.org/standards/dbus/1.0/introspect.dtd\">
<node>
";

/// An interface as an object describes it, as it is written into its file.
fn described(ash: &Ash, path: &str, interface: &str) -> Result<String> {
    let call = format!(
        "dbus-send --bus={} --print-reply=literal --dest=org.ashd.Ash1 {path} \
         org.freedesktop.DBus.Introspectable.Introspect",
        ash.bus()
    );
    let xml = script(ash, &call)?;
    let opening = format!("<interface name=\"{interface}\">");
    let lines: Vec<&str> = xml.lines().collect();
    let first = lines.iter().position(|line| line.trim() == opening);
    let first = first.with_context(|| format!("{path} has no {interface}"))?;
    let indent = lines[first].len() - opening.len();
    let mut text = HEAD.to_owned();
    for line in &lines[first..] {
        text += &format!("  {}\n", line.get(indent..).unwrap_or_default().trim_end());
        if line.trim() == "</interface>" {
            return Ok(text + "</node>\n");
        }
    }
    anyhow::bail!("the description of {interface} does not end")
}

#[test]
fn the_installed_descriptions_are_those_of_the_objects() -> Result<()> {
    let talk = Talk::begin(Options::stub())?;
    let session = format!("/org/ashd/Ash1/sessions/{}", talk.session.replace('-', "_"));
    for (name, path) in [
        ("Manager", "/org/ashd/Ash1"),
        ("Agent", "/org/ashd/Ash1/agents/hello"),
        ("Session", &session),
    ] {
        let interface = format!("org.ashd.Ash1.{name}");
        let file = programs::repository().join(format!("ashd/dbus/xml/{interface}.xml"));
        let described = described(&talk.ash, path, &interface)?;
        if std::env::var_os("INSTA_UPDATE").is_some_and(|how| how == "always") {
            fs::write(&file, &described)?;
        }
        let installed = fs::read_to_string(&file)?;
        let place = file.display();
        ensure!(described == installed, "{place} is not what {path} says:\n{described}");
    }
    talk.ash.finish()
}

/// `gdbus monitor`, line by line.
struct Monitor {
    process: Child,
    lines: Receiver<String>,
}

impl Monitor {
    fn start(ash: &Ash) -> Result<Monitor> {
        let mut process = Command::new("gdbus")
            .args(["monitor", "--system", "--dest", "org.ashd.Ash1"])
            .env("DBUS_SYSTEM_BUS_ADDRESS", ash.bus())
            .stdout(Stdio::piped())
            .spawn()?;
        let out = BufReader::new(process.stdout.take().context("no standard output")?);
        let (say, lines) = channel();
        std::thread::spawn(move || {
            out.lines().map_while(Result::ok).all(|line| say.send(line).is_ok())
        });
        let monitor = Monitor { process, lines };
        monitor.until("is owned by")?;
        Ok(monitor)
    }

    /// What is announced up to the first line that has this in it.
    fn until(&self, wanted: &str) -> Result<Vec<String>> {
        let (began, mut seen) = (Instant::now(), vec![]);
        loop {
            let line = self.lines.recv_timeout(SOON.saturating_sub(began.elapsed()));
            let line = line.with_context(|| format!("no {wanted:?} within a minute: {seen:?}"))?;
            seen.push(line);
            if seen.last().is_some_and(|line| line.contains(wanted)) {
                return Ok(seen);
            }
        }
    }
}

impl Drop for Monitor {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

#[test]
fn what_changes_is_announced_once() -> Result<()> {
    if !has("gdbus", "what_changes_is_announced_once") {
        return Ok(());
    }
    let talk = Talk::begin(Options::stub())?;
    let monitor = Monitor::start(&talk.ash)?;
    // Held, or its beginning and its end may be announced as one.
    let turn =
        talk.send(&format!("{}[[count 50]]", talk.bash("until [ -e go ]; do sleep 0.01; done")))?;
    let begun = monitor.until("PropertiesChanged")?;
    ensure!(begun.iter().all(|line| !line.contains("'Turn': <''>")), "{begun:?}");
    talk.api.exec(&talk.session, "touch go")?;
    turn.to_end()?;
    let ended = monitor.until("'Turn': <''>")?;
    ensure!(ended.len() == 1, "something was announced within the turn: {ended:?}");

    script(&talk.ash, &set_env("{'A': 'b'}"))?;
    let changed = monitor.until("'EnvNames': <['A']>")?;
    ensure!(changed.len() == 1, "{changed:?}");

    let folder = talk.ash.agents_dir().join("hello");
    let folder = folder.to_str().context("the folder's path is no text")?;
    talk.ash.ctl().json(&["deploy", folder, "-n", "hello"])?;
    // What comes behind it is announced behind all of it.
    script(&talk.ash, &set_env("{'B': 'c'}"))?;
    let deployed = monitor.until("'EnvNames': <['B']>")?;
    let of = |what: &str| deployed.iter().filter(|line| line.contains(what)).count();
    ensure!(of("AgentDeployed ('hello', uint32 2)") == 1, "{deployed:?}");
    ensure!(of("AgentDeployed") == 1, "{deployed:?}");
    ensure!(of("('org.ashd.Ash1.Agent', {") == 2, "{deployed:?}");
    drop(monitor);
    talk.ash.finish()
}

/// The call that gives the agent this environment.
fn set_env(env: &str) -> String {
    format!(
        "gdbus call --system --dest org.ashd.Ash1 --object-path /org/ashd/Ash1/agents/hello \
         --method org.ashd.Ash1.Agent.SetEnv \"{env}\""
    )
}

#[test]
fn a_fork_is_there_when_its_path_is() -> Result<()> {
    if !has("gdbus", "a_fork_is_there_when_its_path_is") {
        return Ok(());
    }
    let talk = Talk::begin(Options::stub())?;
    let session = talk.session.replace('-', "_");
    let said = script(
        &talk.ash,
        &format!(
            "object='--system --dest org.ashd.Ash1 --object-path'
             session=/org/ashd/Ash1/sessions/{session}
             fork=$(gdbus call $object $session --method org.ashd.Ash1.Session.Fork '' |
                 cut -d \"'\" -f 2)
             gdbus call $object $fork --method org.freedesktop.DBus.Properties.Get \
                 org.ashd.Ash1.Session Status"
        ),
    )?;
    ensure!(said == "(<'paused'>,)\n", "{said}");
    talk.ash.finish()
}

/// What a call is told that has to fail.
fn refusal(ash: &Ash, call: &str) -> Result<String> {
    let refused = script(ash, call).err().with_context(|| format!("it was taken: {call}"))?;
    Ok(refused.to_string())
}

#[test]
fn wrong_arguments_have_the_name_that_every_client_knows() -> Result<()> {
    let talk = Talk::begin(Options::stub())?;
    let send = format!("dbus-send --bus={} --print-reply --dest=org.ashd.Ash1", talk.ash.bus());
    let call = format!("{send} /org/ashd/Ash1 org.ashd.Ash1.Manager.GetAgent uint32:1");
    let said = refusal(&talk.ash, &call)?;
    let wanted = "org.freedesktop.DBus.Error.InvalidArgs: Signature mismatch: got `u`";
    ensure!(said.contains(wanted), "{said}");
    if !has("gdbus", "wrong_arguments_have_the_name_that_every_client_knows") {
        return talk.ash.finish();
    }
    let session = format!("sessions/{}", talk.session.replace('-', "_"));
    for (object, call) in [
        ("", "Manager.ListSessions \"{'mine': <true>}\""),
        ("", "Manager.Deploy hello 0 \"{'mine': <true>}\""),
        (session.as_str(), "Session.Follow \"{'mine': <true>}\""),
    ] {
        let path = format!("/org/ashd/Ash1/{object}");
        let path = path.trim_end_matches('/');
        // The descriptor 0 of `Deploy` is a pipe.
        let call = format!(
            ": | gdbus call --system --dest org.ashd.Ash1 --object-path {path} --method \
             org.ashd.Ash1.{call}"
        );
        let said = refusal(&talk.ash, &call)?;
        ensure!(said.contains("DBus.Error.InvalidArgs: unknown field `mine`"), "{said}");
    }
    talk.ash.finish()
}

/// What a call is told while the daemon can have no more descriptors.
fn refused_without_descriptors(ash: &Ash, call: &str) -> Result<String> {
    let pid = i32::try_from(ash.pid()?).ok().and_then(Pid::from_raw).context("it has no pid")?;
    // It has more than these three already.
    let no_more = Rlimit { current: Some(3), ..getrlimit(Resource::Nofile) };
    let before = prlimit(Some(pid), Resource::Nofile, no_more)?;
    let told = refusal(ash, call);
    prlimit(Some(pid), Resource::Nofile, before)?;
    told
}

#[test]
fn what_no_pipe_can_be_made_for_is_not_begun() -> Result<()> {
    let talk = Talk::begin(Options::stub())?;
    let object = format!("/org/ashd/Ash1/sessions/{}", talk.session.replace('-', "_"));
    for call in ["Send string:'\"Hello\"' string:'{}'", "Exec 'string:touch ran' uint64:0"] {
        let call = format!(
            "dbus-send --bus={} --print-reply --dest=org.ashd.Ash1 {object} \
             org.ashd.Ash1.Session.{call}",
            talk.ash.bus()
        );
        let said = refused_without_descriptors(&talk.ash, &call)?;
        let wanted = "org.ashd.Ash1.Error.Failed: no pipe can be made, and nothing was begun: ";
        ensure!(said.contains(wanted), "{said}");
    }
    let messages = talk.api.messages(&talk.session)?;
    ensure!(messages.is_empty(), "{messages:?}");
    let looked = talk.api.exec(&talk.session, "[ -e ran ]")?;
    ensure!(looked.code == 1, "the command has run");
    talk.ask("hello")?;
    talk.ash.finish()
}

#[test]
fn why_a_turn_failed_is_a_property_until_the_next_one() -> Result<()> {
    if !has("gdbus", "why_a_turn_failed_is_a_property_until_the_next_one") {
        return Ok(());
    }
    let talk = Talk::begin(Options::stub())?;
    let path = format!("/org/ashd/Ash1/sessions/{}", talk.session.replace('-', "_"));
    let get = format!(
        "gdbus call --system --dest org.ashd.Ash1 --object-path {path} --method \
         org.freedesktop.DBus.Properties.Get org.ashd.Ash1.Session LastError"
    );
    ensure!(script(&talk.ash, &get)? == "(<''>,)\n");
    let monitor = Monitor::start(&talk.ash)?;
    let turn = talk.send("[[exit 3]]")?.to_end()?;
    let [error] = &turn.errors()[..] else { bail!("{:?}", turn.errors()) };
    let told = monitor.until("'Turn': <''>")?.pop().unwrap_or_default();
    let said = script(&talk.ash, &get)?;
    ensure!(said == format!("(<{error:?}>,)\n") || said == format!("(<'{error}'>,)\n"), "{said}");
    ensure!(told.contains(said.trim_matches(['(', ')', ',', '\n'])), "{said} is not in {told}");
    let listed = talk.ash.ctl().json(&["session", "info", &talk.session])?;
    ensure!(listed["lastError"] == **error, "{listed}");

    talk.ask("hello")?;
    ensure!(script(&talk.ash, &get)? == "(<''>,)\n", "it outlives the next turn");
    drop(monitor);
    talk.ash.finish()
}

#[test]
fn keys_do_what_their_scope_says_until_they_are_revoked() -> Result<()> {
    let talk = Talk::begin(Options::stub())?;
    let ctl = talk.ash.ctl();
    let session = format!("/api/sessions/{}", talk.session);
    let exec = json!({ "command": "true" });
    let folder = talk.ash.folder("other", "x")?;
    let deployment = json!({ "name": "other", "path": folder });
    let calls: [(&str, String, Option<&Value>, usize); 7] = [
        ("GET", "/api/agents".into(), None, 0),
        ("GET", session.clone(), None, 0),
        ("POST", format!("{session}/exec"), Some(&exec), 1),
        ("POST", "/api/agents".into(), Some(&deployment), 2),
        ("PATCH", "/api/agents/hello/config".into(), Some(&json!({})), 2),
        ("DELETE", format!("{session}?purge=true"), None, 2),
        ("GET", "/api/agents/other".into(), None, 0),
    ];
    for (rank, scope) in ["read", "run", "manage"].into_iter().enumerate() {
        let made = ctl.json(&["key", "create", "a test", "--scope", scope])?;
        let key = made["key"].as_str().context("there is no key")?;
        let api = Api::new(talk.ash.address(), key);
        for (method, path, body, needed) in &calls {
            if *needed > rank {
                let refused = api.call(method, path, *body)?.expect(403)?;
                // What purging needs beyond ending is said to those who may end.
                let named = if path.contains("purge") { rank + 1 } else { *needed };
                let wanted = format!("the scope {}", ["read", "run", "manage"][named]);
                ensure!(
                    refused["error"].as_str().is_some_and(|it| it.contains(&wanted)),
                    "{refused}"
                );
            } else if rank == 2 || !path.ends_with("/other") {
                let status = api.call(method, path, *body)?.status;
                ensure!(status < 300, "{scope}: {method} {path}: {status}");
            }
        }
        let id = made["id"].as_str().context("the key has no id")?;
        let listed = ctl.json(&["key", "list"])?;
        ensure!(listed.to_string().contains(id) && !listed.to_string().contains(key));
        ctl.json(&["key", "revoke", id])?;
        api.call("GET", "/api/agents", None)?.expect(401)?;
    }
    talk.ash.finish()
}

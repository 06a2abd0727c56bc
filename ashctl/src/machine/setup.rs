//! `ashctl setup`: from a machine with the packages to the first answer. Every step looks first
//! whether it has been done; so it can be run again at any time.

mod ask;
mod credential;

use std::io::{IsTerminal, stdin};
use std::path::Path;

use serde_json::json;
use zeroize::Zeroizing;

use self::credential::Credentials;
use super::runtime::{self, Shelf};
use super::{Page, doctor, installed};
use crate::bus::Bus;
use crate::cli::Setup;
use crate::command;
use crate::ending::Ending;
use crate::failure::Failure;
use crate::systemctl;

/// Does every step, and says what each did.
pub(super) async fn run(
    page: &mut Page,
    options: &Setup,
    bus: Option<&str>,
) -> Result<(), Failure> {
    if !rustix::process::geteuid().is_root() {
        let sentence = "only root can set ash up; run `sudo ashctl setup`";
        return Err(Failure::Denied(sentence.into()));
    }
    let prepared = prepared(page, options, bus);
    let bus = Ending::told_or_interrupted()?.unless(prepared).await??;
    match bus {
        Some(bus) => command::first_answer(&bus, page.as_json).await,
        None => page.say(
            "Service: not started; `ashctl start` does it, and this command goes on from there",
            &json!({"step": "service", "running": false}),
        ),
    }
}

/// Does every step before the first answer; returns the way to the daemon, if it runs.
async fn prepared(
    page: &mut Page,
    options: &Setup,
    bus: Option<&str>,
) -> Result<Option<Bus>, Failure> {
    key(page, options).await?;
    program(page, options).await?;
    start(page, options, bus).await
}

async fn key(page: &mut Page, options: &Setup) -> Result<(), Failure> {
    let credentials = Credentials::beneath(&options.places.etc_dir);
    if let Some(given) = doctor::configured_key().await {
        return match &options.key_file {
            None => page.say(
                &format!("Key: {given} of the configuration gives it"),
                &json!({"step": "key", "configured": given, "changed": false}),
            ),
            Some(_) => Err(Failure::Failed(format!(
                "{given} of the configuration gives the model API key, and a stored one would have no \
                 effect; change it there, or take it out and run this again (`ashctl config show` says \
                 where it is)"
            ))),
        };
    }
    let there = credentials.found();
    let Some(key) = wanted_key(options, there.as_deref()).await? else {
        let path = there.unwrap_or_default();
        let document = json!({"step": "key", "path": path, "changed": false});
        return page.say(&format!("Key: {} is there already", path.display()), &document);
    };
    let path = credentials.store(&key).await?;
    // One that failed for want of a key it could read is not tried again by itself.
    let state = systemctl::state(systemctl::BROKER).await;
    if matches!(state.as_deref(), Some("active" | "failed")) {
        systemctl::tell(&["restart"], systemctl::BROKER).await?;
    }
    let document = json!({"step": "key", "path": path, "changed": true});
    page.say(&format!("Key: stored in {}", path.display()), &document)
}

/// The key to store; none when the one that is there stays.
async fn wanted_key(
    options: &Setup,
    there: Option<&Path>,
) -> Result<Option<Zeroizing<String>>, Failure> {
    let is_asked = stdin().is_terminal() && !options.yes;
    match (&options.key_file, there.is_some()) {
        (Some(path), _) => ask::key_in(path.clone()).await.map(Some),
        (None, true) if !is_asked => Ok(None),
        (None, true) => {
            let question = "There is a model API key already. Replace it?";
            match ask::confirm(question, false).await? {
                true => ask::key().await.map(Some),
                false => Ok(None),
            }
        }
        (None, false) if is_asked => ask::key().await.map(Some),
        (None, false) => Err(Failure::Usage(
            "give the model API key with --key-file, or on standard input with --key-file -".into(),
        )),
    }
}

async fn program(page: &mut Page, options: &Setup) -> Result<(), Failure> {
    let shelf = Shelf::at(options.places.libexec_dir.clone());
    if let Some(version) = shelf.used()? {
        let document = json!({"step": "runtime", "version": version, "changed": false});
        return page.say(&format!("Runtime: version {version} is in use"), &document);
    }
    if let (None, Some(newest)) = (&options.runtime_file, shelf.list()?.pop()) {
        runtime::need_root()?;
        shelf.choose(&newest.version)?;
        let document = json!({"step": "runtime", "version": newest.version, "changed": true});
        return page.say(&format!("Runtime: uses version {} now", newest.version), &document);
    }
    installed::install(page, &shelf, (None, options.runtime_file.as_deref())).await
}

/// Starts the daemon if need be; returns the way to it, unless that was not wanted.
async fn start(
    page: &mut Page,
    options: &Setup,
    address: Option<&str>,
) -> Result<Option<Bus>, Failure> {
    if let Ok(bus) = reached(address).await {
        page.say("Service: ashd runs", &json!({"step": "service", "running": true}))?;
        return Ok(Some(bus));
    }
    let is_wanted = match (options.yes, stdin().is_terminal()) {
        (true, _) => true,
        (false, true) => ask::confirm("Start ashd now, and at every boot?", true).await?,
        (false, false) => false,
    };
    if !is_wanted {
        return Ok(None);
    }
    systemctl::tell(&["enable", "--now"], systemctl::DAEMON).await?;
    page.say(
        "Service: ashd is started, and will be at every boot",
        &json!({"step": "service", "running": true}),
    )?;
    reached(address).await.map(Some)
}

/// The bus with the daemon on it.
async fn reached(address: Option<&str>) -> Result<Bus, Failure> {
    let bus = Bus::connect(address).await?;
    bus.manager.version().await?;
    Ok(bus)
}

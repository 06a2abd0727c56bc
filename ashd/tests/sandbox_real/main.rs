//! Sandboxes made of the real parts: launcher, bubblewrap, bridge and broker.
//!
//! Needs root, bubblewrap and a cgroup v2 mount, and the programs in the build directory
//! (`cargo build -p ash-bridge -p ash-launcher -p ash-broker`); says SKIP and why where one is
//! missing.

#![expect(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]
#![expect(clippy::print_stdout, reason = "says why it skips")]

mod limits;
mod place;

use std::collections::BTreeSet;
use std::fs;
use std::time::{Duration, Instant};

use ash_wire::words::CliState;
use ashd::sandbox::SandboxError;

use place::{Place, exec, kill, until};

/// Asks the broker from inside for something that it answers by itself.
const ASK_BROKER: &str = "perl -MIO::Socket::UNIX -e 'my $s = IO::Socket::UNIX->new(Peer => \
    \"/run/ash/model/api.sock\") or die \"no: $!\"; print $s \"GET /v1/files HTTP/1.1\\r\\nhost: \
    api.local\\r\\n\\r\\n\"; print scalar <$s>'";

#[tokio::test(flavor = "multi_thread")]
async fn a_sandbox_is_made_used_and_ended_without_a_trace() {
    let Some(place) = Place::new() else { return };
    let all = place.start().await;
    assert_eq!(place.traces(), BTreeSet::new());
    let new = place.sandbox();
    let (id, uid) = (new.id, new.uids.agent);
    let mut running = all.launch(new).await.unwrap_or_else(|error| panic!("{}", error.in_full()));
    assert_eq!((running.welcome.cli, all.live()), (CliState::Absent, 1));
    let (code, said) = exec(&mut running, "id; hostname; pwd; cat /etc/claude-code/*").await;
    let expected = format!("uid={uid}(agent) gid={uid}(agent) groups={uid}(agent)\n");
    assert_eq!((code, said), (Some(0), format!("{expected}hello\n/workspace\n{{}}")));
    let (_, said) = exec(&mut running, "touch x; ls /home /root /var/lib /srv /boot; ls /").await;
    assert!(said.contains("agent") && !said.contains("boot\n"), "{said}");
    let (_, said) = exec(&mut running, ASK_BROKER).await;
    assert!(said.starts_with("HTTP/1.1 4"), "{said}");
    assert_ne!(place.traces(), BTreeSet::new());
    all.end(id).await.unwrap();
    all.end(id).await.unwrap();
    assert_eq!((all.leftovers(), all.live()), (BTreeSet::new(), 0));
    place.is_clean().await;
    all.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn sandboxes_are_found_again_after_a_restart() {
    let Some(place) = Place::new() else { return };
    let first = place.start().await;
    let (kept, lost, dead) = (place.sandbox(), place.sandbox(), place.sandbox());
    let mut running = first.launch(kept.clone()).await.unwrap();
    exec(&mut running, "sleep 1000 & echo $! > /workspace/pid").await;
    first.launch(lost.clone()).await.unwrap();
    first.launch(dead.clone()).await.unwrap();
    // The next daemon: as after kill -9, the first one ended nothing.
    drop((running, first));
    let all = place.start().await;
    let mut running =
        all.adopt(kept.id, kept.session, kept.uids, 0).await.unwrap().expect("it lives");
    assert_eq!(exec(&mut running, "kill -0 $(cat pid)").await.0, Some(0));
    assert!(exec(&mut running, ASK_BROKER).await.1.starts_with("HTTP/1.1 4"));
    assert_eq!(all.users(kept.id), BTreeSet::from([kept.uids.bridge, kept.uids.agent]));
    fs::remove_file(place.setup.run_dir.join(format!("bridge/{}.sock", dead.id))).unwrap();
    assert!(all.adopt(dead.id, dead.session, dead.uids, 0).await.unwrap().is_none());
    assert_eq!(all.leftovers(), BTreeSet::from([kept.id, lost.id]));
    assert_eq!(all.reap(&BTreeSet::from([kept.id])).await, BTreeSet::from([lost.id]));
    all.end(kept.id).await.unwrap();
    assert_eq!(all.users(kept.id), BTreeSet::new());
    place.is_clean().await;
    all.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_loss_of_broker_and_launcher_is_made_good() {
    let Some(place) = Place::new() else { return };
    let all = place.start().await;
    let first = place.sandbox();
    let mut running = all.launch(first.clone()).await.unwrap();
    kill(place.broker().unwrap());
    kill(place.launcher().unwrap());
    let second = place.sandbox();
    let mut other = all.launch(second.clone()).await.unwrap_or_else(|e| panic!("{}", e.in_full()));
    for running in [&mut running, &mut other] {
        let (_, said) = exec(running, ASK_BROKER).await;
        assert!(said.starts_with("HTTP/1.1 4"), "{said}");
    }
    let has_key = || all.has_model_key() == Some(true);
    until(has_key, || "the broker does not say that it has a key".into()).await;
    for id in [first.id, second.id] {
        all.end(id).await.unwrap();
    }
    place.is_clean().await;
    all.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_broker_that_is_told_to_end_turns_nobody_away() {
    let Some(place) = Place::new() else { return };
    let all = place.start().await;
    let new = place.sandbox();
    let mut running = all.launch(new.clone()).await.unwrap();
    let first = place.broker().unwrap();
    rustix::process::kill_process(first, rustix::process::Signal::TERM).unwrap();
    until(|| place.broker() != Some(first), || "it is still there".into()).await;
    let (_, said) = exec(&mut running, ASK_BROKER).await;
    assert!(said.starts_with("HTTP/1.1 4"), "{said}");
    all.end(new.id).await.unwrap();
    place.is_clean().await;
    all.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_launch_that_fails_leaves_nothing_and_says_why() {
    let Some(mut place) = Place::new() else { return };
    place.setup.bridge = "/usr/bin/false".into();
    let all = place.start().await;
    let mut new = place.sandbox();
    let error = all.launch(new.clone()).await.unwrap_err();
    assert!(matches!(error, SandboxError::Link { .. }), "{}", error.in_full());
    place.is_clean().await;
    new.workspace = "/etc".into();
    let error = all.launch(new).await.unwrap_err();
    assert!(matches!(error, SandboxError::Launcher(_)), "{}", error.in_full());
    assert!(!error.to_string().contains('/'), "{error}");
    assert_eq!((all.leftovers(), all.live()), (BTreeSet::new(), 0));
    place.is_clean().await;
    all.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_launch_that_nobody_waits_for_is_undone() {
    let Some(place) = Place::new() else { return };
    let all = place.start().await;
    let new = place.sandbox();
    let id = new.id;
    let lost = tokio::time::timeout(Duration::from_millis(2), all.launch(new)).await;
    if let Ok(made) = lost {
        // It was faster than that: nothing to see.
        drop(made.unwrap());
        all.end(id).await.unwrap();
    }
    place.is_clean().await;
    all.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sandbox_that_does_not_want_to_end_is_killed() {
    let Some(place) = Place::new() else { return };
    let all = place.start().await;
    let new = place.sandbox();
    let id = new.id;
    let mut running = all.launch(new).await.unwrap();
    let command = "for i in $(seq 50); do (trap '' TERM INT HUP; setsid sleep 1000 &) ; done";
    assert_eq!(exec(&mut running, command).await.0, Some(0));
    // Nobody can be asked any more.
    drop(running);
    all.end(id).await.unwrap();
    place.is_clean().await;
    all.stop().await;
}

/// Takes a processor for longer than another one that wants it has to wait for its share.
const COUNT: &str = "n=0; while [ $n -lt 100000 ]; do n=$((n + 1)); done";

/// It would not hear that it is asked to go.
#[tokio::test(flavor = "multi_thread")]
async fn a_sandbox_whose_agent_stands_still_is_ended_where_it_is() {
    let Some(place) = Place::new() else { return };
    let all = place.start().await;
    let (new, other) = (place.sandbox(), place.sandbox());
    let (id, beside) = (new.id, other.id);
    let mut running = all.launch(new).await.unwrap();
    let mut counting = all.launch(other).await.unwrap();
    let work = "(while :; do :; done) >/dev/null 2>&1 &";
    assert_eq!(exec(&mut running, work).await.0, Some(0));
    let mut used = async || {
        assert_eq!(exec(&mut counting, COUNT).await.0, Some(0));
        all.cpu_us(id)
    };
    let (first, second) = (used().await, used().await);
    assert!(first < second, "it does nothing: {first} µs, and then {second}");
    let still = all.freeze(id).unwrap().unwrap();
    let (first, second) = (used().await, used().await);
    assert_eq!(first, second, "it goes on");
    all.end(beside).await.unwrap();
    all.end_at_once(id).await.unwrap();
    drop((still, running, counting));
    assert_eq!((all.leftovers(), all.live()), (BTreeSet::new(), 0));
    place.is_clean().await;
    all.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sandbox_of_which_nothing_is_kept_is_ended_whatever_its_agent_does() {
    let Some(place) = Place::new() else { return };
    let all = place.start().await;
    let (new, idle) = (place.sandbox(), place.sandbox());
    let ids = [new.id, idle.id];
    let mut running = all.launch(new).await.unwrap();
    let beside = all.launch(idle).await.unwrap();
    // What does not go when it is asked.
    let deaf = "(trap '' TERM; sleep 1000) >/dev/null 2>&1 &";
    assert_eq!(exec(&mut running, deaf).await.0, Some(0));
    for id in ids {
        all.discard(id).await.unwrap();
    }
    drop((running, beside));
    assert_eq!((all.leftovers(), all.live()), (BTreeSet::new(), 0));
    place.is_clean().await;
    all.stop().await;
}

/// Times are printed, not asserted: the machine is shared.
#[tokio::test(flavor = "multi_thread")]
async fn many_sandboxes_come_and_go() {
    let Some(place) = Place::new() else { return };
    let all = place.start().await;
    let (mut up, mut down) = (Vec::new(), Vec::new());
    for _ in 0..40 {
        let new = place.sandbox();
        let id = new.id;
        let start = Instant::now();
        let running = all.launch(new).await.unwrap();
        up.push(start.elapsed());
        let start = Instant::now();
        all.end(id).await.unwrap();
        down.push(start.elapsed());
        drop(running);
    }
    place.is_clean().await;
    for (what, mut times) in [("launch", up), ("end", down)] {
        times.sort();
        println!("{what}: p50 {:?}, worst {:?}", times[times.len() / 2], times[times.len() - 1]);
    }
    all.stop().await;
}

//! What the kernel enforces: memory, processes, processor time.

use std::fs;
use std::sync::Arc;
use std::time::Instant;

use ash_wire::words::Exec;
use ashd::domain::SandboxId;
use ashd::sandbox::cgroup::OutOfMemory;
use ashd::sandbox::limits::Limits;
use ashd::sandbox::{Running, Sandboxes};

use crate::place::{PATIENCE, Place, exec, until};

/// A sandbox with these limits, if this machine can enforce them.
struct Limited {
    id: SandboxId,
    running: Running,
    // Before the place, which ends what a daemon that still lives would start again.
    all: Arc<Sandboxes>,
    place: Place,
}

impl Limited {
    async fn launch(limits: Limits) -> Option<Limited> {
        let place = Place::new()?;
        let all = place.start().await;
        let unlimited: Vec<_> =
            all.missing().iter().filter(|missing| missing.contains("not limited")).collect();
        if !unlimited.is_empty() {
            println!("SKIP: {unlimited:?}");
            all.stop().await;
            return None;
        }
        let new = place.sandbox();
        let id = new.id;
        let launched = all.launch(ashd::sandbox::NewSandbox { limits, ..new }).await;
        let running = launched.unwrap_or_else(|error| panic!("{}", error.in_full()));
        Some(Limited { id, running, all, place })
    }

    /// Starts a command and does not wait for it.
    fn begin(&self, command: &str) {
        let env = vec![("PATH".to_owned(), "/usr/bin:/bin".to_owned())];
        let command = command.to_owned();
        let exec = Exec { command, env, timeout_ms: 600_000, output_limit: 9999 };
        self.running.sender.exec(self.running.sender.next_id(), &exec).unwrap();
    }

    /// A number behind a word in one of a group's files.
    fn count(&self, file: &str, word: &str) -> u64 {
        let text = fs::read_to_string(self.place.cgroup().join(self.id.to_string()).join(file));
        let text = text.unwrap();
        let line = text.lines().find_map(|line| line.strip_prefix(word)?.strip_prefix(' '));
        line.unwrap_or_else(|| panic!("no {word} in {text:?}")).parse().unwrap()
    }

    /// Waits until a number is as it should be.
    async fn until(&self, file: &str, word: &str, is_right: impl Fn(u64) -> bool) {
        let count = || self.count(file, word);
        until(|| is_right(count()), || format!("{word} in {file} stays {}", count())).await;
    }

    /// Ends it; nothing may be left.
    async fn end(self) {
        drop(self.running);
        self.all.end(self.id).await.unwrap();
        self.place.is_clean().await;
        self.all.stop().await;
    }
}

/// The kernel ends all of the agent at once, and the bridge goes by itself when it has told.
#[tokio::test(flavor = "multi_thread")]
async fn memory_that_runs_out_ends_the_whole_agent_and_not_the_bridge() {
    let limits = Limits { memory: 64 << 20, ..Limits::default() };
    let Some(mut limited) = Limited::launch(limits).await else { return };
    assert_eq!(exec(&mut limited.running, "sleep 1000 & echo $!").await.0, Some(0));
    limited.begin("perl -e '$x = q(x) x 1_000_000_000; print length $x'");
    let mut batch = Vec::new();
    let hung_up = async {
        while limited.running.receiver.recv_batch(&mut batch, 16).await.is_ok_and(|n| n.is_some()) {
        }
    };
    tokio::time::timeout(PATIENCE, hung_up).await.expect("the bridge stays");
    assert!(limited.all.oom_kills(limited.id) >= 3, "{}", limited.all.oom_kills(limited.id));
    assert_eq!(limited.all.out_of_memory(limited.id), Some(OutOfMemory::Sandbox));
    assert_eq!(limited.count("agent/memory.events", "oom_group_kill"), 1);
    assert_eq!(limited.count("bridge/memory.events", "oom_kill"), 0);
    limited.until("agent/cgroup.events", "populated", |populated| populated == 0).await;
    let stats = limited.all.stats(limited.id);
    assert!(stats.memory_peak <= 64 << 20, "{stats:?}");
    limited.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_fork_bomb_is_held_and_ended() {
    let limits = Limits { pids: 40, ..Limits::default() };
    let Some(mut limited) = Limited::launch(limits).await else { return };
    limited.begin("perl -e 'fork while 1'");
    limited.until("agent/pids.events", "max", |refused| refused > 100).await;
    let stats = limited.all.stats(limited.id);
    assert!(stats.pids <= 40, "{stats:?}");
    let (code, said) = exec(&mut limited.running, "echo no").await;
    assert!(code != Some(0) && said.is_empty(), "{code:?} {said}");
    assert_eq!(limited.count("bridge/pids.events", "max"), 0);
    limited.end().await;
}

/// Whatever the machine is busy with: nobody gets more than a share in every period.
#[tokio::test(flavor = "multi_thread")]
async fn processor_time_is_rationed() {
    const PERIOD: f64 = 0.1;
    let limits = Limits { cpus: 0.2, ..Limits::default() };
    let begun = Instant::now();
    let Some(limited) = Limited::launch(limits).await else { return };
    limited.begin("while :; do :; done & while :; do :; done");
    limited.until("agent/cpu.stat", "nr_throttled", |times| times > 5).await;
    let used = limited.all.stats(limited.id).cpu_us as f64 / 1e6;
    let most = 0.2 * (begun.elapsed().as_secs_f64() + 2.0 * PERIOD);
    assert!(used <= most, "{used} s of processor time, more than {most} s");
    limited.end().await;
}

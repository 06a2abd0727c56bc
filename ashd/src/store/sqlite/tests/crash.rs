//! What was acknowledged is there after the process was killed.

use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};

use super::*;

/// Tells the child where its database is.
const DIR: &str = "ASH_TEST_CRASH_DIR";

/// Sessions that the child writes to at once.
const SESSIONS: u8 = 4;

/// No test of its own: what the child does, for ever.
#[test]
fn child() {
    let Some(dir) = std::env::var_os(DIR) else { return };
    let store = Arc::new(open(dir.as_ref()));
    block_on(async {
        let writers: Vec<_> =
            (0..SESSIONS).map(|n| tokio::spawn(write(store.clone(), n))).collect();
        for writer in writers {
            writer.await.unwrap();
        }
    });
}

async fn write(store: Arc<Sqlite>, n: u8) {
    if store.session(SessionId(uuid(n))).await.unwrap().is_none() {
        store.create_session(session(n), Vec::new()).await.unwrap();
    }
    let mut last = store.session(SessionId(uuid(n))).await.unwrap().unwrap().last_seq;
    loop {
        store.commit(append(n, (last + 1..=last + 3).map(event).collect())).await.unwrap();
        last += 3;
        println!("acknowledged {n} {last}");
    }
}

#[test]
fn what_was_acknowledged_survives_a_kill() {
    let dir = tempfile::tempdir().unwrap();
    let mut acknowledged = [0; SESSIONS as usize];
    for round in 1..=5 {
        acknowledge(dir.path(), round * 200, &mut acknowledged);
        let store = open(dir.path());
        for (n, least) in (0..SESSIONS).zip(acknowledged) {
            let found = block_on(numbers(&store, n));
            assert!(found.len() as u64 >= least, "session {n}: {} of {least}", found.len());
            assert_eq!(found, (1..=found.len() as u64).collect::<Vec<_>>());
            let row = block_on(store.session(SessionId(uuid(n)))).unwrap().unwrap();
            assert_eq!(row.last_seq, found.len() as u64);
        }
    }
}

/// Runs a child, kills it after so many acknowledgements, and notes those.
fn acknowledge(dir: &Path, count: usize, acknowledged: &mut [u64]) {
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "store::sqlite::tests::crash::child", "--nocapture"])
        .env(DIR, dir)
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let lines = BufReader::new(child.stdout.take().unwrap()).lines().map(Result::unwrap);
    let mut seen = 0;
    for line in lines {
        if let Some((n, seq)) = line.strip_prefix("acknowledged ").and_then(|l| l.split_once(' ')) {
            acknowledged[n.parse::<usize>().unwrap()] = seq.parse().unwrap();
            seen += 1;
        }
        if seen == count {
            child.kill().unwrap();
        }
    }
    child.wait().unwrap();
    assert!(seen >= count, "the child ended by itself");
}

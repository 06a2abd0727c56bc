//! Who descends from a process.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;

/// The processes that descend from `ancestor`, at one moment. Whoever has lost a parent on the way
/// is not among them.
pub fn descendants(ancestor: i32) -> BTreeSet<i32> {
    let numbers = fs::read_dir("/proc").into_iter().flatten().flatten();
    let pids = numbers.filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok());
    from(ancestor, pids.filter_map(|pid| Some((pid, parent(pid)?))))
}

/// The parent of a process (proc_pid_stat(5), field 4). Its name may hold anything.
fn parent(pid: i32) -> Option<i32> {
    let stat = fs::read(format!("/proc/{pid}/stat")).ok()?;
    let stat = String::from_utf8_lossy(&stat);
    stat.rsplit_once(')')?.1.split_ascii_whitespace().nth(1)?.parse().ok()
}

/// Who descends from `ancestor` among processes, each with its parent.
fn from(ancestor: i32, processes: impl Iterator<Item = (i32, i32)>) -> BTreeSet<i32> {
    let mut children = BTreeMap::<i32, Vec<i32>>::new();
    processes.for_each(|(pid, parent)| children.entry(parent).or_default().push(pid));
    let (mut found, mut next) = (BTreeSet::new(), vec![ancestor]);
    while let Some(parent) = next.pop() {
        let its = children.remove(&parent).unwrap_or_default();
        found.extend(&its);
        next.extend(its);
    }
    found
}

#[cfg(test)]
mod tests {
    use std::process::{Command, Stdio};

    use super::*;

    #[test]
    fn they_are_found_through_those_between() {
        let all = [(2, 1), (3, 2), (5, 3), (4, 3), (6, 1), (7, 6), (1, 0)];
        assert_eq!(from(2, all.into_iter()), BTreeSet::from([3, 4, 5]));
        assert_eq!(from(5, all.into_iter()), BTreeSet::new());
    }

    #[test]
    fn a_child_is_one() {
        let mut child = Command::new("/bin/sh").stdin(Stdio::piped()).spawn().unwrap();
        let ours = descendants(std::process::id().cast_signed());
        let its = parent(child.id().cast_signed());
        child.kill().unwrap();
        child.wait().unwrap();
        assert!(ours.contains(&child.id().cast_signed()));
        assert_eq!(its, Some(std::process::id().cast_signed()));
    }
}

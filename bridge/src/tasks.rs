//! What the CLI runs beside its turns: commands in the background, agents of the agent's. Pure.
//!
//! CLI 2.1.197 says with `system/task_started` that a task runs, also of one that a turn waits for. That it
//! has ended it says with `system/task_notification`, whatever its end was, and before that with a status
//! in `system/task_updated` (which was read in the program, and not seen). All name it by its id. Behind one
//! that ran in the background it begins a turn of its own. What it had begun ends with it.
//!
//! All of this may be made up by the agent, so that little is kept, and an end that nobody knows of is none.

use std::collections::BTreeSet;

use crate::speech::Task;

/// How many are known at a time. What is more counts for nothing.
const MOST: usize = 256;

/// The tasks that run.
#[derive(Debug, Default)]
pub struct Tasks {
    running: BTreeSet<String>,
    told: u64,
}

impl Tasks {
    /// The CLI has said something of a task.
    pub fn note(&mut self, Task { id, runs }: Task) {
        if !runs {
            self.running.remove(&id);
        } else if self.running.len() < MOST {
            self.running.insert(id);
        }
    }

    /// The CLI is gone.
    pub fn forget(&mut self) {
        self.running.clear();
    }

    /// How many run, for an `ashd` that is told all else as well.
    pub fn tell(&mut self) -> u64 {
        self.told = self.running.len() as u64;
        self.told
    }

    /// How many run, when that is not what was told last.
    pub fn news(&mut self) -> Option<u64> {
        let told = self.told;
        Some(self.tell()).filter(|running| *running != told)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn note(tasks: &mut Tasks, said: &[(&str, bool)]) {
        said.iter().for_each(|(id, runs)| tasks.note(Task { id: (*id).to_owned(), runs: *runs }));
    }

    #[test]
    fn each_counts_from_its_beginning_to_its_end_and_once() {
        let mut tasks = Tasks::default();
        note(&mut tasks, &[("a", true), ("b", true), ("a", true)]);
        assert_eq!((tasks.news(), tasks.news()), (Some(2), None));
        // Its end is said twice; of another one nothing was known.
        note(&mut tasks, &[("a", false), ("a", false), ("c", false)]);
        assert_eq!(tasks.news(), Some(1));
        tasks.forget();
        assert_eq!((tasks.news(), tasks.news()), (Some(0), None));
    }

    #[test]
    fn what_ends_before_it_was_told_is_no_news() {
        let mut tasks = Tasks::default();
        note(&mut tasks, &[("a", true), ("a", false)]);
        assert_eq!(tasks.news(), None);
        note(&mut tasks, &[("a", true)]);
        assert_eq!((tasks.tell(), tasks.news()), (1, None));
    }

    #[test]
    fn what_is_made_up_takes_no_room() {
        let mut tasks = Tasks::default();
        (0..10 * MOST).for_each(|id| tasks.note(Task { id: id.to_string(), runs: true }));
        assert_eq!(tasks.news(), Some(MOST as u64));
        note(&mut tasks, &[("0", false)]);
        assert_eq!(tasks.news(), Some(MOST as u64 - 1));
    }
}

//! Several threads that work through a tree, and through what they find in it on the way.

use std::ffi::{CStr, CString};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;

use crate::tree::dir::Dir;

/// The most threads that look at one session's files.
const MOST: usize = 4;

/// What may be put off; each holds its directory open.
const PUT_OFF: usize = 256;

/// Something in a directory that has to be seen to.
pub(super) struct Todo {
    pub(super) dir: Arc<Dir>,
    pub(super) name: CString,
    /// As seen from the session.
    pub(super) path: Vec<u8>,
    pub(super) task: Task,
}

/// What has to be done with it.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Task {
    /// To look into a directory, this deep.
    Look(usize),
    /// To read a file.
    Read,
}

/// What is still to do.
pub(super) struct Queue(Mutex<State>, Condvar);

struct State {
    /// The newest comes first: so little is open at a time.
    now: Vec<Todo>,
    late: Vec<Todo>,
    is_late: bool,
    busy: usize,
    is_over: bool,
}

/// Says that a thread is at work.
struct Busy<'a>(&'a Queue);

/// Does all of it, and everything that is added meanwhile. The first failure ends it.
pub(super) fn work<E: Send>(
    todo: Vec<Todo>,
    each: impl Fn(Todo, &Queue) -> Result<(), E> + Sync,
) -> Result<(), E> {
    let state = State { now: todo, late: vec![], is_late: false, busy: 0, is_over: false };
    let queue = Queue(Mutex::new(state), Condvar::new());
    let failed = Mutex::new(None);
    let run = || {
        while let Some((todo, _busy)) = queue.next() {
            if let Err(error) = each(todo, &queue) {
                queue.state().is_over = true;
                failed.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(error);
            }
        }
    };
    thread::scope(|scope| {
        for _ in 0..threads() {
            scope.spawn(run);
        }
    });
    failed.into_inner().unwrap_or_else(PoisonError::into_inner).map_or(Ok(()), Err)
}

/// As many as there are processors, within reason.
pub(super) fn threads() -> usize {
    thread::available_parallelism().map_or(2, usize::from).clamp(2, MOST)
}

impl Queue {
    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The next thing to do. Waits while somebody is at work, who may add something.
    fn next(&self) -> Option<(Todo, Busy<'_>)> {
        let mut state = self.state();
        while !state.is_over {
            if let Some(todo) = state.now.pop() {
                state.busy += 1;
                return Some((todo, Busy(self)));
            }
            match state.busy {
                0 if state.late.is_empty() => state.is_over = true,
                0 => {
                    state.now = std::mem::take(&mut state.late);
                    state.is_late = true;
                    self.1.notify_all();
                }
                _ => state = self.1.wait(state).unwrap_or_else(PoisonError::into_inner),
            }
        }
        self.1.notify_all();
        None
    }

    pub(super) fn add(&self, more: Vec<Todo>) {
        if !more.is_empty() {
            self.state().now.extend(more);
            self.1.notify_all();
        }
    }

    /// Leaves something until everything else is done, once; it is given back when it cannot be.
    pub(super) fn put_off(&self, todo: Todo) -> Option<Todo> {
        let mut state = self.state();
        if state.is_late || state.late.len() >= PUT_OFF {
            return Some(todo);
        }
        state.late.push(todo);
        None
    }
}

impl Drop for Busy<'_> {
    fn drop(&mut self) {
        let mut state = self.0.state();
        state.busy -= 1;
        if state.busy == 0 {
            self.0.1.notify_all();
        }
    }
}

/// A path with one more part.
pub(super) fn joined(path: &[u8], name: &CStr) -> Vec<u8> {
    let name = name.to_bytes();
    let mut joined = Vec::with_capacity(path.len() + 1 + name.len());
    joined.extend(path);
    joined.push(b'/');
    joined.extend(name);
    joined
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tree::Tree;

    fn todo(dir: &Arc<Dir>, path: &[u8]) -> Todo {
        Todo { dir: dir.clone(), name: CString::default(), path: path.to_vec(), task: Task::Read }
    }

    fn somewhere() -> Arc<Dir> {
        let dir = tempfile::tempdir().unwrap();
        Arc::new(Tree::open(dir.path()).unwrap().top().unwrap())
    }

    #[test]
    fn what_is_put_off_is_done_last_and_once() {
        let (dir, done) = (somewhere(), Mutex::new(vec![]));
        let each = |now: Todo, queue: &Queue| {
            let path = now.path.clone();
            if path == b"young" && queue.put_off(now).is_none() {
                return Ok(());
            }
            if path.len() < 3 {
                queue.add([&b"x"[..], b"y"].map(|end| todo(&dir, &[&path, end].concat())).into());
            }
            done.lock().unwrap().push(path);
            Ok::<_, ()>(())
        };
        work(vec![todo(&dir, b""), todo(&dir, b"young")], each).unwrap();
        let done = done.into_inner().unwrap();
        assert_eq!(done.len(), 1 + 2 + 4 + 8 + 1);
        assert_eq!(done.last().unwrap(), b"young");
    }

    #[test]
    fn a_failure_ends_it() {
        let dir = somewhere();
        let each = |now: Todo, queue: &Queue| match now.path.len() {
            9 => Err("it failed"),
            _ => {
                queue.add(vec![todo(&dir, &[&now.path[..], b"x"].concat())]);
                Ok(())
            }
        };
        assert_eq!(work(vec![todo(&dir, b"")], each), Err("it failed"));
    }
}

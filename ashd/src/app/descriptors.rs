//! How many files, sockets and pipes the daemon may have open, and who of it gets how many.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// What a sandbox takes: its conversation and its standard error; while it is made, its files as well.
const SANDBOX: u64 = 4;

/// Database, packs, files that are read and written, programs that are started.
const OTHERS: u64 = 512;

/// Connections are no more than this, however many descriptors there are: each takes memory.
const MOST: u64 = 65_536;

/// Takes as many as the system gives. What a service manager allows is given at once; shells and
/// containers begin with a thousand, and let whoever asks have more.
pub(super) fn take_all() {
    let limit = getrlimit(Resource::Nofile);
    if limit.current == limit.maximum {
        return;
    }
    if let Err(error) = setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, ..limit }) {
        tracing::warn!(%error, limit = ?limit.current, "the limit of open files stays as it is");
    }
}

/// How many connections of clients there may be at a time, beside so many sandboxes.
pub(super) fn connections(sandboxes: u32) -> usize {
    share(getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX), sandboxes)
}

/// Of so many descriptors.
fn share(all: u64, sandboxes: u32) -> usize {
    let others = (SANDBOX * u64::from(sandboxes) + OTHERS).min(all / 2);
    usize::try_from((all - others).min(MOST)).unwrap_or(usize::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sandboxes_are_thought_of_first_but_clients_have_half() {
        let shares = [(20_000, 1_000), (524_288, 1_000), (1_024, 1_000), (1_024, 0), (0, 5)];
        let shares = shares.map(|(all, sandboxes)| share(all, sandboxes));
        assert_eq!(shares, [15_488, 65_536, 512, 512, 0]);
        assert_eq!(share(u64::MAX, u32::MAX), 65_536);
    }

    #[test]
    fn all_that_the_system_gives_is_taken() {
        take_all();
        let limit = getrlimit(Resource::Nofile);
        assert_eq!(limit.current, limit.maximum);
    }
}

//! How many files, sockets and pipes the daemon may have open, and who of it gets how many.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use crate::snapshot::OPEN_PACKS;

/// What a sandbox takes: its conversation and its standard error; while it is made, its files as well.
const SANDBOX: u64 = 4;

/// What a tenant's vault takes: its index is a database of three files, which stay open. Packs are bounded
/// over all tenants.
const VAULT: u64 = 3;

/// Database, files that are read and written, programs that are started, vaults of tenants that come
/// later.
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

/// How many connections of clients there may be at a time, beside so many sandboxes and vaults.
pub(super) fn connections(sandboxes: u32, vaults: u32) -> usize {
    share(getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX), sandboxes, vaults)
}

/// Of so many descriptors.
fn share(all: u64, sandboxes: u32, vaults: u32) -> usize {
    let of_each = SANDBOX * u64::from(sandboxes) + VAULT * u64::from(vaults);
    let others = (of_each + OPEN_PACKS as u64 + OTHERS).min(all / 2);
    usize::try_from((all - others).min(MOST)).unwrap_or(usize::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sandboxes_are_thought_of_first_but_clients_have_half() {
        let shares = [(20_000, 1_000), (524_288, 1_000), (1_024, 1_000), (1_024, 0), (0, 5)];
        let shares = shares.map(|(all, sandboxes)| share(all, sandboxes, 0));
        assert_eq!(shares, [15_232, 65_536, 512, 512, 0]);
        assert_eq!(share(u64::MAX, u32::MAX, u32::MAX), 65_536);
    }

    #[test]
    fn what_tenants_have_open_is_not_for_clients() {
        assert_eq!(share(20_000, 0, 1) - share(20_000, 0, 1_001), 3_000);
        assert_eq!(share(80_000, 0, 10_000), 80_000 - 30_000 - 768);
    }

    #[test]
    fn all_that_the_system_gives_is_taken() {
        take_all();
        let limit = getrlimit(Resource::Nofile);
        assert_eq!(limit.current, limit.maximum);
    }
}

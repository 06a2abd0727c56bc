//! The few system calls that Rust cannot call safely, behind functions that can be, and what several
//! of our programs read from the kernel.
//!
//! This is the only crate of ash that contains `unsafe`. Each module is one need:
//!
//! * [`fds`]: what a process inherited, and what it hands on;
//! * [`process`]: forking while single-threaded, and running another program in one's place;
//! * [`peer`]: who is at the other end of a socket;
//! * [`children`]: learning that children ended, without a thread that waits;
//! * [`cgroup`]: where control groups are;
//! * [`memory`]: how the allocator keeps memory;
//! * [`files`]: what an open file is, and what others have of it in their memory;
//! * [`umask`]: what is taken from the modes of files, for one thread;
//! * `lease`: what has others wait who open a file, for tests.

pub mod fds;

pub mod process;

pub mod peer;

pub mod children;

pub mod cgroup;

pub mod memory;

pub mod files;

pub mod umask;

#[cfg(any(test, feature = "leases"))]
pub mod lease;

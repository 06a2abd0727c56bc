//! The loop: clients ask, children end.

use std::collections::HashSet;
use std::io::{self, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd as _, OwnedFd};
use std::path::Path;
use std::time::Instant;

use ash_wire::plan::{FIXED_FDS, Greeting, LAUNCHER_VERSION, MAX_FILES, MAX_PLAN, Plan, Reply};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{Mode, chmod, stat};
use rustix::io::Errno;
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags, SendFlags,
    SocketAddrUnix, SocketFlags, SocketType, accept_with, bind, connect, listen, recvmsg, send,
    socket_with,
};
use rustix::process::{Pid, WaitOptions, wait};

use crate::fault;
use crate::launch::launch;
use crate::options::Options;

/// Clients at a time. ashd needs one.
const MAX_CLIENTS: usize = 16;

/// Why the launcher cannot go on.
#[derive(Debug, thiserror::Error)]
pub enum ServerError {
    /// The socket's directory is open to others.
    #[error("{0} must be a directory of root with mode 0700")]
    Directory(String),
    /// Something else has the socket's path.
    #[error("{0} is in use by another launcher, or is no socket")]
    InUse(String),
    /// A step was refused by the kernel.
    #[error("cannot {0}: {1}")]
    Step(&'static str, io::Error),
}

/// The launcher at work.
#[derive(Debug)]
pub struct Server {
    options: Options,
    /// What everyone who connects is told.
    greeting: Vec<u8>,
    listener: OwnedFd,
    clients: Vec<OwnedFd>,
    /// None of them has a descriptor here: each child that is made would copy and close those of all others,
    /// of which there may be thousands.
    children: HashSet<Pid>,
    /// Since when there is neither a client nor a child.
    unused_since: Option<Instant>,
}

/// Listens at the configured path. A socket that nobody listens on is replaced.
///
/// # Errors
/// When the path is not safe to listen at or in use.
pub fn listen_at(path: &Path) -> Result<OwnedFd, ServerError> {
    check_directory(path)?;
    remove_stale(path)?;
    let listener = new_socket()?;
    step("bind the socket", bind(&listener, &address(path)?))?;
    fault::point("listen.bound");
    step("close the socket to others", chmod(path, Mode::from_raw_mode(0o600)))?;
    step("listen", listen(&listener, 16))?;
    fault::point("listen.open");
    Ok(listener)
}

impl Server {
    /// A server for this listener. `group` is the control group that was given for sandboxes.
    pub fn new(options: Options, listener: OwnedFd, group: Option<String>) -> Server {
        let greeting = serde_json::to_vec(&greeting(&options, group)).unwrap_or_default();
        let unused_since = Some(Instant::now());
        let (clients, children) = (Vec::new(), HashSet::new());
        Server { options, greeting, listener, clients, children, unused_since }
    }

    /// Serves until it was unused for as long as configured, then removes the socket. For one call in a
    /// process's life.
    ///
    /// # Errors
    /// When the kernel refuses to wait.
    pub fn run(mut self) -> Result<(), ServerError> {
        let ended = step("learn of the end of children", ash_sys::children::ended())?;
        while !self.is_unused() {
            self.wait(&ended)?;
            self.reap(&ended);
            self.accept();
            self.serve();
            self.note_use();
        }
        step("remove the socket", std::fs::remove_file(&self.options.socket))
    }

    /// Waits until something happens. `ended` tells that children have ended.
    fn wait(&self, ended: &OwnedFd) -> Result<(), ServerError> {
        let all = [ended, &self.listener].into_iter().chain(&self.clients);
        let mut fds: Vec<_> = all.map(|fd| PollFd::new(fd, PollFlags::IN)).collect();
        match poll(&mut fds, self.time_left().as_ref()) {
            Ok(_) | Err(Errno::INTR) => Ok(()),
            Err(error) => step("wait", Err(error)),
        }
    }

    /// Waits for all children that have ended, if it was told of any.
    fn reap(&mut self, ended: &OwnedFd) {
        let mut is_told = false;
        while rustix::io::read(ended, &mut [0; 64]).is_ok_and(|count| count > 0) {
            is_told = true;
        }
        if !is_told {
            return;
        }
        loop {
            match wait(WaitOptions::NOHANG) {
                Ok(Some((child, _))) => drop(self.children.remove(&child)),
                Err(Errno::INTR) => {}
                Err(Errno::CHILD) => return self.children.clear(),
                Ok(None) | Err(_) => return,
            }
        }
    }

    fn accept(&mut self) {
        while let Ok(client) =
            accept_with(&self.listener, SocketFlags::CLOEXEC | SocketFlags::NONBLOCK)
        {
            let is_root = ash_sys::peer::uid(client.as_fd()).is_ok_and(|uid| uid == 0);
            let room = is_root && self.clients.len() < MAX_CLIENTS;
            if room && say(&client, &self.greeting) {
                self.clients.push(client);
                fault::point("client.greeted");
            }
        }
    }

    fn serve(&mut self) {
        for client in std::mem::take(&mut self.clients) {
            let kept = match receive(&client) {
                Ok(None) => true,
                Ok(Some(request)) => {
                    fault::point("launch.asked");
                    let answered = answer(&client, &self.fulfil(request));
                    fault::point("launch.answered");
                    answered
                }
                Err(_) => false,
            };
            if kept {
                self.clients.push(client);
            }
        }
    }

    fn fulfil(&mut self, request: Request) -> Reply {
        let Request { bytes, fds } = request;
        let plan: Plan = match serde_json::from_slice(&bytes) {
            Ok(plan) => plan,
            Err(error) => return Reply::Refused { reason: format!("not a plan: {error}") },
        };
        match launch(&plan, &fds, &self.options) {
            Ok(child) => {
                self.children.insert(child);
                Reply::Launched { pid: child.as_raw_nonzero().get().unsigned_abs() }
            }
            Err(error) => Reply::Refused { reason: error.to_string() },
        }
    }

    fn note_use(&mut self) {
        let unused = self.clients.is_empty() && self.children.is_empty();
        self.unused_since = unused.then(|| self.unused_since.unwrap_or_else(Instant::now));
    }

    fn is_unused(&self) -> bool {
        match (self.options.exit_when_unused, self.unused_since) {
            (Some(limit), Some(since)) => since.elapsed() >= limit,
            _ => false,
        }
    }

    fn time_left(&self) -> Option<Timespec> {
        let left = self.options.exit_when_unused?.saturating_sub(self.unused_since?.elapsed());
        // A millisecond more, so that it is over then.
        Timespec::try_from(left + std::time::Duration::from_millis(1)).ok()
    }
}

struct Request {
    bytes: Vec<u8>,
    fds: Vec<OwnedFd>,
}

/// The next request, or `None` if there is none yet.
fn receive(client: &OwnedFd) -> io::Result<Option<Request>> {
    let mut bytes = vec![0; MAX_PLAN];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(FIXED_FDS + MAX_FILES))];
    let mut ancillary = RecvAncillaryBuffer::new(&mut space);
    let flags = RecvFlags::CMSG_CLOEXEC;
    let received = match recvmsg(client, &mut [IoSliceMut::new(&mut bytes)], &mut ancillary, flags)
    {
        Err(Errno::AGAIN | Errno::INTR) => return Ok(None),
        other => other?,
    };
    let cut_off = received.flags.intersects(ReturnFlags::TRUNC | ReturnFlags::CTRUNC);
    if received.bytes == 0 || cut_off {
        return Err(io::ErrorKind::InvalidData.into());
    }
    bytes.truncate(received.bytes);
    let mut fds = Vec::new();
    for message in ancillary.drain() {
        if let RecvAncillaryMessage::ScmRights(rights) = message {
            fds.extend(rights);
        }
    }
    Ok(Some(Request { bytes, fds }))
}

/// Sends a reply. Returns whether the client is still there.
fn answer(client: &OwnedFd, reply: &Reply) -> bool {
    say(client, &serde_json::to_vec(reply).unwrap_or_default())
}

fn say(client: &OwnedFd, packet: &[u8]) -> bool {
    send(client, packet, SendFlags::NOSIGNAL | SendFlags::DONTWAIT).is_ok()
}

fn greeting(options: &Options, group: Option<String>) -> Greeting {
    let text = |path: &Path| path.to_string_lossy().into_owned();
    Greeting {
        version: LAUNCHER_VERSION,
        group,
        sessions_dir: text(&options.sessions_dir),
        broker_dir: text(&options.broker_dir),
        uid_base: options.uid_base,
        uid_count: options.uid_count,
    }
}

fn check_directory(socket: &Path) -> Result<(), ServerError> {
    let directory = socket.parent().unwrap_or(Path::new("/"));
    let stat = step("look at the socket's directory", stat(directory))?;
    if stat.st_uid != 0 || stat.st_mode & 0o077 != 0 {
        return Err(ServerError::Directory(directory.display().to_string()));
    }
    Ok(())
}

fn remove_stale(path: &Path) -> Result<(), ServerError> {
    match connect(new_socket()?, &address(path)?) {
        Err(Errno::NOENT) => Ok(()),
        Err(Errno::CONNREFUSED) => step("remove a stale socket", std::fs::remove_file(path)),
        _ => Err(ServerError::InUse(path.display().to_string())),
    }
}

fn new_socket() -> Result<OwnedFd, ServerError> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    step("make a socket", socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None))
}

fn address(path: &Path) -> Result<SocketAddrUnix, ServerError> {
    step("use the socket's path", SocketAddrUnix::new(path))
}

fn step<T>(step: &'static str, result: Result<T, impl Into<io::Error>>) -> Result<T, ServerError> {
    result.map_err(|error| ServerError::Step(step, error.into()))
}

#[cfg(test)]
mod tests {
    use std::process::{Child, Command, Stdio};

    use super::*;

    /// A process that ends when its standard input does.
    fn cat() -> Child {
        let mut cat = Command::new("cat");
        cat.stdin(Stdio::piped()).stdout(Stdio::null()).spawn().unwrap()
    }

    #[test]
    fn children_that_have_ended_are_waited_for_and_no_others() {
        let dir = tempfile::tempdir().unwrap();
        let listener = new_socket().unwrap();
        bind(&listener, &address(&dir.path().join("s")).unwrap()).unwrap();
        listen(&listener, 1).unwrap();
        let mut server = Server::new(Options::default(), listener, None);
        let ended = ash_sys::children::ended().unwrap();
        let mut cats: Vec<_> = (0..3).map(|_| cat()).collect();
        server.children.extend(cats.iter().map(Pid::from_child));
        // One that is in the middle, and then all others at once.
        for going in [1..2, 0..2] {
            let left = cats.len() - going.len();
            cats.drain(going).for_each(drop);
            while server.children.len() > left {
                server.wait(&ended).unwrap();
                server.reap(&ended);
            }
            let pids: HashSet<_> = cats.iter().map(Pid::from_child).collect();
            assert_eq!(server.children, pids);
            assert!(cats.iter_mut().all(|cat| cat.try_wait().unwrap().is_none()));
        }
    }
}

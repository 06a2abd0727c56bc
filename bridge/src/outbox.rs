//! What goes to `ashd`, in pieces that its socket takes.

use std::collections::VecDeque;
use std::io;
use std::os::fd::OwnedFd;
use std::rc::Rc;

use ash_wire::frame::{Header, Kind};
use rustix::io::Errno;
use rustix::net::{SendFlags, send};

use crate::log::Log;

/// Bodies up to this many bytes are gathered into one write.
const SMALL: usize = 16 * 1024;

/// How much is gathered.
const BATCH: usize = 64 * 1024;

/// Frames that wait, apart from those of the log, above which nothing more should be added.
const ENOUGH: usize = 256 * 1024;

/// Frames on their way. Events stay in the log until their turn to be written comes; here is only
/// the number of the next.
#[derive(Debug)]
pub struct Outbox {
    next_event: u64,
    others: VecDeque<(Kind, u64, Rc<[u8]>)>,
    others_bytes: usize,
    /// Frames without a body, each with the number of the event that it comes behind.
    behind: VecDeque<(u64, Kind, u64)>,
    small: Vec<u8>,
    small_done: usize,
    /// A body too large to copy, written after `small`.
    large: Option<(Rc<[u8]>, usize)>,
}

impl Outbox {
    /// Sends the events from number `next_event` on.
    pub fn new(next_event: u64) -> Outbox {
        Outbox {
            next_event,
            others: VecDeque::new(),
            others_bytes: 0,
            behind: VecDeque::new(),
            small: Vec::new(),
            small_done: 0,
            large: None,
        }
    }

    /// Adds a frame that is not an event.
    pub fn push(&mut self, kind: Kind, number: u64, body: &[u8]) {
        self.others_bytes += body.len();
        self.others.push_back((kind, number, body.into()));
    }

    /// Adds a frame without a body that comes behind all events up to number `event`: other frames
    /// overtake events and are overtaken.
    pub fn push_behind(&mut self, event: u64, kind: Kind, number: u64) {
        self.behind.push_back((event, kind, number));
    }

    /// The same for a frame of which only the newest number counts: one of its kind that waits gets it.
    pub fn push_newest_behind(&mut self, event: u64, kind: Kind, number: u64) {
        match self.behind.iter_mut().find(|(_, waiting, _)| *waiting == kind) {
            Some((.., newest)) => *newest = number,
            None => self.push_behind(event, kind, number),
        }
    }

    /// Whether so much waits that producers should pause.
    pub fn is_crowded(&self) -> bool {
        self.others_bytes > ENOUGH
    }

    /// Whether there is something to write. Must not be said without reason: a loop that waits for
    /// room to write would not wait.
    pub fn has_work(&self, log: &Log) -> bool {
        let waits = !self.others.is_empty() || !self.behind.is_empty();
        self.is_started() || waits || log.from(self.next_event).is_some()
    }

    /// Writes until nothing is left or the socket takes no more.
    ///
    /// # Errors
    /// When the connection is broken.
    pub fn write(&mut self, socket: &OwnedFd, log: &Log) -> io::Result<()> {
        loop {
            if !self.is_started() && !self.gather(log) {
                return Ok(());
            }
            let chunk = match &self.large {
                Some((body, done)) if self.small_done == self.small.len() => &body[*done..],
                _ => &self.small[self.small_done..],
            };
            match send(socket, chunk, SendFlags::DONTWAIT | SendFlags::NOSIGNAL) {
                Ok(count) => self.wrote(count),
                Err(Errno::AGAIN) => return Ok(()),
                Err(Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
        }
    }

    fn is_started(&self) -> bool {
        self.small_done < self.small.len() || self.large.is_some()
    }

    fn wrote(&mut self, count: usize) {
        if self.small_done < self.small.len() {
            self.small_done += count;
        } else if let Some((body, done)) = &mut self.large {
            *done += count;
            if *done == body.len() {
                self.large = None;
            }
        }
    }

    /// Takes the next frames, in turns from all sources so that none starves. Behind a large body
    /// nothing can be added.
    fn gather(&mut self, log: &Log) -> bool {
        self.small.clear();
        self.small_done = 0;
        loop {
            let before = self.small.len();
            if let Some((kind, number, body)) = self.others.pop_front() {
                self.others_bytes -= body.len();
                self.add(kind, number, body);
            }
            if self.large.is_none()
                && let Some(event) = log.from(self.next_event)
            {
                self.next_event = event.number + 1;
                self.add(event.kind, event.number, Rc::clone(&event.body));
            }
            if self.large.is_none()
                && let Some((kind, number)) = self.next_behind(log)
            {
                self.add(kind, number, Rc::default());
            }
            let nothing = self.small.len() == before;
            if nothing || self.large.is_some() || self.small.len() >= BATCH {
                return self.is_started();
            }
        }
    }

    /// The next of those that come behind events, if none of these is left. Some may have been dropped.
    fn next_behind(&mut self, log: &Log) -> Option<(Kind, u64)> {
        let (event, kind, number) = *self.behind.front()?;
        if log.from(self.next_event).is_some_and(|next| next.number <= event) {
            return None;
        }
        self.behind.pop_front();
        Some((kind, number))
    }

    fn add(&mut self, kind: Kind, number: u64, body: Rc<[u8]>) {
        self.small.extend_from_slice(&Header { kind, number, body: body.len() }.encode());
        if body.len() <= SMALL {
            self.small.extend_from_slice(&body);
        } else {
            self.large = Some((body, 0));
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read as _;
    use std::os::unix::net::UnixStream;
    use std::thread::JoinHandle;

    use ash_wire::frame;
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn without_anything_to_send_there_is_no_work() {
        let (socket, _theirs) = UnixStream::pair().unwrap();
        for first in [0, 1, 7] {
            let (log, mut outbox) = (Log::new(usize::MAX), Outbox::new(first));
            assert!(!outbox.has_work(&log), "from {first}");
            outbox.push(Kind::Welcome, 0, b"{}");
            assert!(outbox.has_work(&log), "from {first}");
            outbox.write(&socket.try_clone().unwrap().into(), &log).unwrap();
            assert!(!outbox.has_work(&log), "from {first}");
        }
    }

    #[test]
    fn events_that_were_dropped_are_no_work() {
        let (mut log, outbox) = (Log::new(usize::MAX), Outbox::new(1));
        log.push(Kind::Delta, b"gone");
        log.acknowledge(1);
        assert!(!outbox.has_work(&log));
        log.push(Kind::Delta, b"there");
        assert!(outbox.has_work(&log));
    }

    #[test]
    fn what_comes_behind_dropped_events_comes() {
        let (ours, mut theirs) = UnixStream::pair().unwrap();
        let (mut log, mut outbox) = (Log::new(usize::MAX), Outbox::new(1));
        log.push(Kind::Line, b"gone");
        outbox.push_behind(log.last(), Kind::Drained, 7);
        log.acknowledge(1);
        assert!(outbox.has_work(&log));
        outbox.write(&ours.into(), &log).unwrap();
        assert!(!outbox.has_work(&log));
        let (header, _) = frame::read(&mut theirs).unwrap().unwrap();
        assert_eq!((header.kind, header.number), (Kind::Drained, 7));
    }

    #[test]
    fn of_what_changes_only_the_newest_waits_and_keeps_its_place() {
        let (ours, mut theirs) = UnixStream::pair().unwrap();
        let (mut log, mut outbox) = (Log::new(usize::MAX), Outbox::new(1));
        outbox.push_newest_behind(0, Kind::Tasks, 1);
        outbox.push_behind(0, Kind::Drained, 7);
        log.push(Kind::Line, b"said");
        outbox.push_newest_behind(log.last(), Kind::Tasks, 2);
        outbox.write(&ours.into(), &log).unwrap();
        let mut next = || {
            let (header, _) = frame::read(&mut theirs).unwrap().unwrap();
            (header.kind, header.number)
        };
        let seen = [next(), next(), next()];
        assert!(seen.contains(&(Kind::Line, 1)), "{seen:?}");
        let others: Vec<_> = seen.into_iter().filter(|(kind, _)| *kind != Kind::Line).collect();
        assert_eq!(others, [(Kind::Tasks, 2), (Kind::Drained, 7)]);
        assert!(!outbox.has_work(&log));
    }

    /// Reads everything to the end of the connection.
    fn reader(theirs: UnixStream) -> JoinHandle<Vec<(Kind, u64, Vec<u8>)>> {
        std::thread::spawn(move || {
            let mut theirs = io::BufReader::new(theirs);
            let mut seen = Vec::new();
            while let Some((header, body)) = frame::read(&mut theirs).unwrap() {
                seen.push((header.kind, header.number, body));
            }
            theirs.read_exact(&mut [0]).unwrap_err();
            seen
        })
    }

    proptest! {
        #[test]
        fn what_comes_behind_events_is_behind_all_of_them(sizes in proptest::collection::vec((0..3, 0usize..70_000), 0..40)) {
            let (ours, theirs) = UnixStream::pair().unwrap();
            ours.set_nonblocking(true).unwrap();
            let (socket, reader) = (OwnedFd::from(ours), reader(theirs));
            let (mut log, mut outbox) = (Log::new(usize::MAX), Outbox::new(1));
            let mut behind = Vec::new();
            for (what, size) in sizes {
                match what {
                    0 => log.push(Kind::Line, &vec![0; size]),
                    1 => outbox.push(Kind::ExecStdout, 0, &vec![0; size]),
                    _ => {
                        outbox.push_behind(log.last(), Kind::Drained, behind.len() as u64);
                        behind.push(log.last());
                    }
                }
                if size % 5 == 0 {
                    outbox.write(&socket, &log).unwrap();
                }
            }
            while outbox.has_work(&log) {
                outbox.write(&socket, &log).unwrap();
            }
            drop(socket);
            let (mut newest, mut answers) = (0, 0);
            for (kind, number, _) in reader.join().unwrap() {
                match kind {
                    Kind::Line => newest = number,
                    Kind::Drained => {
                        prop_assert_eq!(number, answers);
                        prop_assert!(newest >= behind[answers as usize]);
                        answers += 1;
                    }
                    _ => {}
                }
            }
            prop_assert_eq!(answers, behind.len() as u64);
        }

        #[test]
        fn everything_arrives_whole_and_in_order(sizes in proptest::collection::vec((any::<bool>(), 0usize..70_000), 0..40)) {
            let (ours, theirs) = UnixStream::pair().unwrap();
            ours.set_nonblocking(true).unwrap();
            let (socket, reader) = (OwnedFd::from(ours), reader(theirs));
            let (mut log, mut outbox) = (Log::new(usize::MAX), Outbox::new(1));
            let (mut events, mut others) = (Vec::new(), Vec::new());
            for (index, (is_event, size)) in sizes.iter().enumerate() {
                let body = vec![index as u8; *size];
                if *is_event {
                    log.push(Kind::Delta, &body);
                    events.push((Kind::Delta, log.last(), body));
                } else {
                    outbox.push(Kind::ExecStdout, index as u64, &body);
                    others.push((Kind::ExecStdout, index as u64, body));
                }
            }
            while outbox.has_work(&log) {
                outbox.write(&socket, &log).unwrap();
            }
            prop_assert!(!outbox.is_crowded());
            drop(socket);
            let (seen_events, seen_others): (Vec<_>, Vec<_>) =
                reader.join().unwrap().into_iter().partition(|(kind, ..)| kind.is_event());
            prop_assert_eq!(seen_events, events);
            prop_assert_eq!(seen_others, others);
        }
    }
}

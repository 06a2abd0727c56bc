//! A terminal, and somebody who types.

use std::fs::File;
use std::io::{Read, Write};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, Stdio};

use rustix::fs::OFlags;
use rustix::process::{Pid, Signal, kill_process};
use rustix::pty::{OpenptFlags, grantpt, ioctl_tiocgptpeer, openpt, unlockpt};
use rustix::termios::{Termios, Winsize, tcgetattr, tcsetwinsize};
use tokio::process::Child;
use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};
use tokio::time::timeout;

use crate::bus::PATIENCE;

/// Makes the terminal on its standard input a program's controlling one.
const SETSID: &str = "/usr/bin/setsid";

/// Tells a program to end.
pub(crate) fn tell(program: &Child, signal: Signal) {
    let pid = Pid::from_raw(program.id().unwrap().cast_signed()).unwrap();
    kill_process(pid, signal).unwrap();
}

/// Both ends of a terminal.
pub(crate) struct Terminal {
    person: File,
    program: File,
    shown: UnboundedReceiver<Vec<u8>>,
    /// The beginning of a character.
    half: Vec<u8>,
    /// All that it has shown.
    pub(crate) screen: String,
}

impl Terminal {
    /// Opens one of 24 lines; says so if this machine has none.
    #[expect(clippy::print_stdout, reason = "make test counts what is skipped")]
    pub(crate) fn open(test: &str) -> Option<Self> {
        if !Path::new(SETSID).is_file() {
            println!("SKIP {test}: needs setsid of util-linux");
            return None;
        }
        match Self::pair() {
            Ok((person, program)) => Some(Self::of(person, program)),
            Err(error) => {
                println!("SKIP {test}: there is no terminal: {error}");
                None
            }
        }
    }

    fn pair() -> rustix::io::Result<(File, File)> {
        let person = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC)?;
        grantpt(&person)?;
        unlockpt(&person)?;
        let flags = OpenptFlags::from_bits_retain((OFlags::RDWR | OFlags::NOCTTY).bits());
        let program = ioctl_tiocgptpeer(&person, flags | OpenptFlags::CLOEXEC)?;
        let size = Winsize { ws_row: 24, ws_col: 200, ws_xpixel: 0, ws_ypixel: 0 };
        tcsetwinsize(&person, size)?;
        Ok((person.into(), program.into()))
    }

    fn of(person: File, program: File) -> Self {
        let (show, shown) = unbounded_channel();
        let mut source = person.try_clone().unwrap();
        // Ends when nobody has the program's end open any more.
        std::thread::spawn(move || {
            let mut bytes = [0; 4096];
            while let Ok(count @ 1..) = source.read(&mut bytes) {
                if show.send(bytes[..count].to_vec()).is_err() {
                    break;
                }
            }
        });
        Terminal { person, program, shown, half: vec![], screen: String::new() }
    }

    /// Starts a program on it.
    pub(crate) fn start(&self, command: &Command) -> Child {
        self.start_as(command, None)
    }

    /// Starts a program on it, as a user.
    pub(crate) fn start_as(&self, command: &Command, user: Option<u32>) -> Child {
        let end = || Stdio::from(self.program.try_clone().unwrap());
        let mut on_it = Command::new(SETSID);
        on_it.env_clear().envs(command.get_envs().filter_map(|(name, it)| Some((name, it?))));
        on_it.arg("--ctty").arg(command.get_program()).args(command.get_args());
        if let Some(user) = user {
            on_it.uid(user).gid(user);
        }
        on_it.stdin(end()).stdout(end()).stderr(end());
        tokio::process::Command::from(on_it).kill_on_drop(true).spawn().unwrap()
    }

    /// Types.
    pub(crate) fn types(&mut self, text: &str) {
        self.person.write_all(text.as_bytes()).unwrap();
    }

    /// Waits until it has shown a text so many times.
    pub(crate) async fn shows(&mut self, text: &str, times: usize) {
        let what = format!("{text:?} is not shown {times} times");
        self.until(|screen| screen.matches(text).count() >= times, &what).await;
    }

    /// Waits until it has shown these words one after the other, behind all that it has shown before, then
    /// types.
    pub(crate) async fn answer(&mut self, words: &[&str], keys: &str) {
        let mut from = self.screen.len();
        for word in words {
            let what = format!("{word:?} is not shown");
            self.until(|screen| screen[from..].contains(word), &what).await;
            from += self.screen[from..].find(word).unwrap() + word.len();
        }
        self.types(keys);
    }

    async fn until(&mut self, is_so: impl Fn(&str) -> bool, what: &str) {
        let seen = async {
            while !is_so(&self.screen) {
                let bytes = self.shown.recv().await.unwrap();
                self.show(&bytes);
            }
        };
        let seen = timeout(PATIENCE, seen).await;
        assert!(seen.is_ok(), "{what}: {:?}", self.screen);
    }

    /// What is read may end in the middle of a character.
    fn show(&mut self, bytes: &[u8]) {
        self.half.extend_from_slice(bytes);
        let whole = match std::str::from_utf8(&self.half) {
            Ok(text) => text.len(),
            Err(error) => error.valid_up_to(),
        };
        let text = self.half.drain(..whole).collect();
        self.screen += &String::from_utf8(text).unwrap();
    }

    /// Waits for the end of a program, and returns what it exits with.
    pub(crate) async fn ended(&mut self, mut program: Child) -> i32 {
        let status = timeout(PATIENCE, program.wait()).await;
        assert!(status.is_ok(), "it does not end: {:?}", self.screen);
        status.unwrap().unwrap().code().expect("ended by a signal")
    }

    /// How it is set, as text that can be compared.
    pub(crate) fn set(&self) -> String {
        let Termios { input_modes, output_modes, control_modes, local_modes, .. } =
            tcgetattr(&self.program).unwrap();
        format!("{input_modes:?} {output_modes:?} {control_modes:?} {local_modes:?}")
    }
}

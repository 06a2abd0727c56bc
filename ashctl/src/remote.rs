//! `-H`: the same command on another machine, through ssh.

use std::ffi::{OsStr, OsString};
use std::io::{IsTerminal, stdin, stdout};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::process::CommandExt;
use std::process::Command;

use crate::failure::Failure;

/// Becomes ssh. Returns only when that fails.
pub(crate) fn become_it(host: &str) -> Failure {
    if host.is_empty() || host.starts_with('-') {
        return Failure::Usage(format!("{host:?} is no host; give one like root@ash.example.com"));
    }
    let mut command = Command::new("ssh");
    if stdin().is_terminal() && stdout().is_terminal() {
        command.arg("-t");
    }
    let error = command.args(["--", host]).arg(line(std::env::args_os().skip(1))).exec();
    Failure::Failed(format!("ssh cannot be run ({error}); install the package openssh-client"))
}

/// The command line for the shell over there: ours, without the option that names the host.
fn line(arguments: impl Iterator<Item = OsString>) -> OsString {
    let mut line = b"ashctl".to_vec();
    for argument in without_host(arguments) {
        line.push(b' ');
        line.extend(quoted(&argument));
    }
    OsString::from_vec(line)
}

/// The parser has accepted the arguments, so that what looks like the option is the option, up to
/// `--`.
fn without_host(arguments: impl Iterator<Item = OsString>) -> Vec<OsString> {
    let (mut kept, mut is_over, mut is_value) = (Vec::new(), false, false);
    for argument in arguments {
        let bytes = argument.as_bytes();
        is_over |= bytes == b"--" && !is_value;
        if std::mem::take(&mut is_value) {
            continue;
        }
        let is_alone = bytes == b"-H" || bytes == b"--host";
        let is_joined = bytes.starts_with(b"-H") || bytes.starts_with(b"--host=");
        match (is_over, is_alone, is_joined) {
            (false, true, _) => is_value = true,
            (false, false, true) => {}
            _ => kept.push(argument),
        }
    }
    kept
}

/// As one word of any shell.
fn quoted(argument: &OsStr) -> Vec<u8> {
    let mut word = vec![b'\''];
    for byte in argument.as_bytes() {
        match byte {
            b'\'' => word.extend(b"'\\''"),
            byte => word.push(*byte),
        }
    }
    word.push(b'\'');
    word
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(arguments: &[&str]) -> String {
        line(arguments.iter().map(Into::into)).into_string().unwrap()
    }

    #[test]
    fn the_command_goes_without_the_host() {
        let want = "ashctl 'session' 'list' '--json'";
        for arguments in [
            &["-H", "root@a", "session", "list", "--json"][..],
            &["session", "-Hroot@a", "list", "--json"],
            &["session", "list", "--host=root@a", "--json"],
            &["session", "list", "--json", "--host", "root@a"],
        ] {
            assert_eq!(told(arguments), want);
        }
        assert_eq!(told(&["-H", "--", "chat", "a", "--", "-H"]), "ashctl 'chat' 'a' '--' '-H'");
    }

    #[test]
    fn a_shell_reads_every_word_as_it_was() {
        let words = ["chat", "a", "it's $HOME `id` \"x\" \\ ; rm -rf ~ \n* ", ""];
        let script = told(&words).replacen("ashctl", "printf '%s\\0'", 1);
        let output = Command::new("sh").arg("-c").arg(script).output().unwrap();
        let read: Vec<_> = output.stdout.split(|byte| *byte == 0).collect();
        let want: Vec<_> = words.iter().map(|word| word.as_bytes()).chain([&b""[..]]).collect();
        assert_eq!(read, want);
    }
}

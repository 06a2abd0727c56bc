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
fn without_host(mut arguments: impl Iterator<Item = OsString>) -> Vec<OsString> {
    let (mut kept, valued) = (Vec::new(), valued(&crate::command()));
    while let Some(argument) = arguments.next() {
        let bytes = argument.as_bytes();
        if bytes == b"--" {
            kept.push(argument);
            break;
        }
        match host_in(bytes, &valued) {
            None => kept.push(argument),
            Some((before, is_value_next)) => {
                kept.extend((!before.is_empty()).then(|| OsString::from_vec(before.to_vec())));
                arguments.by_ref().take(is_value_next.into()).for_each(drop);
            }
        }
    }
    kept.extend(arguments);
    kept
}

/// What stands before the option in an argument that has it, and whether its value is the next
/// one: `-fH there` is `-f` and `-H there`.
fn host_in<'a>(argument: &'a [u8], valued: &[u8]) -> Option<(&'a [u8], bool)> {
    match argument {
        b"--host" => return Some((b"", true)),
        [b'-', b'-', ..] => return argument.starts_with(b"--host=").then_some((b"", false)),
        [b'-', _, ..] => {}
        _ => return None,
    }
    // What follows the first letter that takes a value is that value.
    let at = 1 + argument[1..].iter().position(|letter| valued.contains(letter))?;
    let before = if at == 1 { &argument[..0] } else { &argument[..at] };
    (argument[at] == b'H').then_some((before, at + 1 == argument.len()))
}

/// The letters of the options that take a value, of all commands.
fn valued(command: &clap::Command) -> Vec<u8> {
    let own = command.get_arguments().filter(|option| option.get_action().takes_values());
    let own = own.filter_map(|option| u8::try_from(option.get_short()?).ok());
    own.chain(command.get_subcommands().flat_map(valued)).collect()
}

/// As one word of any shell. To fish, a backslash means something between single quotes, too.
fn quoted(argument: &OsStr) -> Vec<u8> {
    let mut word = vec![b'\''];
    for byte in argument.as_bytes() {
        match byte {
            b'\'' | b'\\' => word.extend([b'\'', b'\\', *byte, b'\'']),
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
        for arguments in [
            &["logs", "-fH", "root@a", "-n5"][..],
            &["logs", "-fHroot@a", "-n5"],
            &["logs", "-f", "-H", "--", "-n5"],
        ] {
            assert_eq!(told(arguments), "ashctl 'logs' '-f' '-n5'");
        }
        assert_eq!(told(&["deploy", "-eH=1", "-"]), "ashctl 'deploy' '-eH=1' '-'");
        assert_eq!(told(&["-H", "--", "chat", "a", "--", "-H"]), "ashctl 'chat' 'a' '--' '-H'");
    }

    #[test]
    fn a_letter_takes_a_value_in_every_command_or_in_none() {
        fn flags(command: &clap::Command, found: &mut Vec<char>) {
            let own = command.get_arguments().filter(|option| !option.get_action().takes_values());
            found.extend(own.filter_map(clap::Arg::get_short));
            command.get_subcommands().for_each(|command| flags(command, found));
        }
        let mut found = Vec::new();
        flags(&crate::command(), &mut found);
        let valued = valued(&crate::command());
        assert!(valued.contains(&b'H') && found.contains(&'f'));
        for letter in found {
            assert!(!valued.iter().any(|byte| char::from(*byte) == letter), "-{letter}");
        }
    }

    #[test]
    fn nothing_between_quotes_means_anything_to_any_shell() {
        assert_eq!(told(&["chat", r"a\", r"\\'"]), r"ashctl 'chat' 'a'\\'' ''\\''\\''\'''");
    }

    #[test]
    fn a_shell_reads_every_word_as_it_was() {
        let words = ["chat", "a", "it's $HOME `id` \"x\" \\ ; rm -rf ~ \n* ", "\\'\\", ""];
        let script = told(&words).replacen("ashctl", "printf '%s\\0'", 1);
        let output = Command::new("sh").arg("-c").arg(script).output().unwrap();
        let read: Vec<_> = output.stdout.split(|byte| *byte == 0).collect();
        let want: Vec<_> = words.iter().map(|word| word.as_bytes()).chain([&b""[..]]).collect();
        assert_eq!(read, want);
    }
}

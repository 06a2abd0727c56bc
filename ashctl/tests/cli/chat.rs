//! `ashctl chat`, with and without a terminal.

use std::io::{Seek, Write};

use rustix::process::Signal;

use crate::bus::{Bus, ended};
use crate::fake::{ID, serve};
use crate::terminal::{Terminal, tell};

#[tokio::test]
async fn one_message_makes_a_session_and_prints_the_answer() {
    let bus = Bus::start();
    let (daemon, _connection) = serve(&bus).await;
    let ran = bus.run(&["chat", "hello", "hi", "--end"]).await;
    assert_eq!((ran.code, &*ran.out, &*ran.err), (0, "Hello\n", ""));
    let seen = daemon.seen.lock().unwrap();
    assert_eq!((seen.settings.len(), &*seen.called), (1, &["end"][..]));
}

#[tokio::test]
async fn a_paused_session_is_woken() {
    let bus = Bus::start();
    let (daemon, _connection) = serve(&bus).await;
    *daemon.status.lock().unwrap() = "paused".into();
    let ran = bus.run(&["chat", "hello", "hi", "-s", ID]).await;
    assert_eq!((ran.code, &*ran.out), (0, "Hello\n"));
    assert_eq!(daemon.seen.lock().unwrap().called, ["resume"]);
}

#[tokio::test]
async fn the_message_may_come_from_standard_input() {
    let bus = Bus::start();
    let (daemon, _connection) = serve(&bus).await;
    let mut message = tempfile::tempfile().unwrap();
    message.write_all(b"from a file").unwrap();
    message.rewind().unwrap();
    let mut command = bus.ashctl(&["chat", "hello"]);
    command.stdin(message);
    assert_eq!(ended(command).await.out, "Hello\n");
    assert_eq!(daemon.seen.lock().unwrap().sent[0].0, r#""from a file""#);
    let ran = bus.run(&["chat", "hello"]).await;
    ran.check_failed(2, "give a message, as an argument or on standard input");
}

#[tokio::test]
async fn on_a_terminal_it_is_a_conversation() {
    let test = "on_a_terminal_it_is_a_conversation";
    let Some(mut terminal) = Terminal::open(test) else { return };
    let bus = Bus::start();
    let (daemon, _connection) = serve(&bus).await;
    let mut chat = bus.ashctl(&["chat", "hello"]);
    chat.env("TERM", "xterm").env("XDG_STATE_HOME", bus.dir.path());
    let program = terminal.start(&chat);
    terminal.answer(&["> "], "colour\r").await;
    terminal.answer(&["boo", "> "], "fail\r").await;
    terminal.answer(&["ashctl: the model is gone", "> "], "wait\r").await;
    terminal.answer(&["Hel"], "\u{3}").await;
    terminal.answer(&["p\r\n", "> "], "half\u{3}").await;
    terminal.answer(&["> "], "\u{4}").await;
    assert_eq!(terminal.ended(program).await, 0, "{:?}", terminal.screen);
    let shown = terminal.screen;
    assert!(shown.contains("␛[2Jboo") && !shown.contains("\u{1b}[2Jboo"), "{shown:?}");
    let seen = daemon.seen.lock().unwrap();
    assert_eq!((seen.sent.len(), &*seen.called), (3, &["interrupt"][..]));
    let history = std::fs::read_to_string(bus.dir.path().join("ash/history")).unwrap();
    assert!(history.ends_with("colour\nfail\nwait\n"), "{history:?}");
}

#[tokio::test]
async fn who_is_told_to_end_gives_the_terminal_back() {
    let test = "who_is_told_to_end_gives_the_terminal_back";
    let Some(mut terminal) = Terminal::open(test) else { return };
    let bus = Bus::start();
    let (daemon, _connection) = serve(&bus).await;
    let before = terminal.set();
    let mut chat = bus.ashctl(&["chat", "hello", "--end"]);
    chat.env("TERM", "xterm");
    // The editor says so when it has changed the terminal, and when it has given it back.
    let (begun, over) = ("\u{1b}[?2004h", "\u{1b}[?2004l");
    for (at, signal) in [Signal::TERM, Signal::HUP].into_iter().enumerate() {
        let program = terminal.start(&chat);
        terminal.shows(begun, at + 1).await;
        assert_ne!(terminal.set(), before);
        tell(&program, signal);
        assert_eq!((terminal.ended(program).await, terminal.set()), (130, before.clone()));
        terminal.shows(over, at + 1).await;
    }
    // In the middle of an answer, too.
    let program = terminal.start(&chat);
    terminal.shows(begun, 3).await;
    terminal.types("wait\r");
    daemon.waiting.notified().await;
    tell(&program, Signal::TERM);
    assert_eq!((terminal.ended(program).await, terminal.set()), (130, before));
    assert_eq!(daemon.seen.lock().unwrap().called, ["end", "end", "end"]);
}

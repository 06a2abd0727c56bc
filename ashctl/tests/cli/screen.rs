//! Commands on a terminal, which is theirs only for a while.

use std::fs;

use rustix::process::Signal;

use crate::bus::Bus;
use crate::fake::serve;
use crate::setup::{can_set_up, setup, stored};
use crate::terminal::{Terminal, tell};

const CTRL_C: &str = "\u{3}";

#[tokio::test]
async fn a_key_that_is_typed_is_not_shown() {
    let test = "a_key_that_is_typed_is_not_shown";
    let Some(mut terminal) = Terminal::open(test).filter(|_| can_set_up(test)) else { return };
    let bus = Bus::start();
    let _daemon = serve(&bus).await;
    let before = terminal.set();
    let program = terminal.start(&setup(&bus, &[]));
    terminal.shows("(it is not shown): ", 1).await;
    assert_ne!(terminal.set(), before);
    terminal.types("sk-ant-typpo\u{7f}\u{7f}ed\r");
    terminal.shows("Hello\r\n", 1).await;
    assert_eq!(terminal.ended(program).await, 0, "{}", terminal.screen);
    assert!(!terminal.screen.contains("sk-ant"), "{}", terminal.screen);
    assert_eq!(fs::read_to_string(stored(&bus).0).unwrap(), "sk-ant-typed");
    assert_eq!(terminal.set(), before);

    let program = terminal.start(&setup(&bus, &[]));
    terminal.shows("Replace it? [y/N] ", 1).await;
    terminal.types("y\r");
    terminal.shows("(it is not shown): ", 2).await;
    terminal.types(CTRL_C);
    assert_eq!((terminal.ended(program).await, terminal.set()), (130, before));
    assert_eq!(fs::read_to_string(stored(&bus).0).unwrap(), "sk-ant-typed");
}

#[tokio::test]
async fn who_is_told_to_end_while_a_key_is_typed_gives_the_terminal_back() {
    let test = "who_is_told_to_end_while_a_key_is_typed_gives_the_terminal_back";
    let Some(mut terminal) = Terminal::open(test).filter(|_| can_set_up(test)) else { return };
    let bus = Bus::start();
    let before = terminal.set();
    for (at, signal) in [Signal::TERM, Signal::HUP, Signal::INT].into_iter().enumerate() {
        let program = terminal.start(&setup(&bus, &[]));
        terminal.shows("(it is not shown): ", at + 1).await;
        assert_ne!(terminal.set(), before);
        tell(&program, signal);
        assert_eq!((terminal.ended(program).await, terminal.set()), (130, before.clone()));
        terminal.shows("(it is not shown): \r\nashctl: interrupted\r\n", at + 1).await;
    }
    // Whoever is asked something that is shown can be told as well.
    let key = stored(&bus).0;
    fs::create_dir_all(key.parent().unwrap()).unwrap();
    fs::write(&key, "sk-ant-1").unwrap();
    let program = terminal.start(&setup(&bus, &[]));
    terminal.shows("Replace it? [y/N] ", 1).await;
    terminal.types(CTRL_C);
    assert_eq!((terminal.ended(program).await, terminal.set()), (130, before));
}

#[tokio::test]
async fn a_screen_is_left_as_it_was() {
    let Some(mut terminal) = Terminal::open("a_screen_is_left_as_it_was") else { return };
    let bus = Bus::start();
    let _daemon = serve(&bus).await;
    let before = terminal.set();
    let program = terminal.start(&bus.ashctl(&["top", "--interval", "1"]));
    terminal.shows("\u{1b}[H\u{1b}[J", 2).await;
    terminal.shows("0.50 USD\r\n", 2).await;
    terminal.types(CTRL_C);
    assert_eq!((terminal.ended(program).await, terminal.set()), (0, before));
    // No other screen, no hidden cursor: nothing that would have to be undone.
    assert!(!terminal.screen.contains("\u{1b}[?"), "{:?}", terminal.screen);
}

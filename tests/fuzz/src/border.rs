//! What crosses the border of a sandbox: frames, the words in them, lines of the CLI.

use std::io::Cursor;

use ash_bridge::lines::{Item, Lines};
use ash_bridge::{permission, speech};
use ash_wire::frame::{self, HEADER, Kind};
use ash_wire::{plan, words};
use serde::de::DeserializeOwned;
use serde_json::value::RawValue;

/// A stream of frames, read by both readers: they agree, and what they read is what was there.
pub fn frames(data: &[u8]) {
    let mut reader = Cursor::new(data);
    let mut rest = data;
    loop {
        match frame::first(rest) {
            Ok(Some((header, end))) => {
                let (read, body) = frame::read(&mut reader).expect("whole").expect("there");
                assert_eq!((read, body.as_slice()), (header, &rest[HEADER..end]));
                let mut written = Vec::new();
                frame::write(&mut written, header.kind, header.number, &body).expect("to memory");
                assert_eq!(written, rest[..end]);
                rest = &rest[end..];
            }
            Ok(None) if rest.is_empty() => {
                return assert!(frame::read(&mut reader).expect("end").is_none());
            }
            Ok(None) | Err(_) => {
                return drop(frame::read(&mut reader).expect_err("cut off or no frame"));
            }
        }
    }
}

/// A body as each of the words, by its first byte. What is understood survives being said again.
pub fn words(data: &[u8]) {
    let Some((kind, body)) = data.split_first() else { return };
    match Kind::from_byte(*kind) {
        Some(Kind::Hello) => said_again::<words::Hello>(body),
        Some(Kind::Start) => said_again::<words::Start>(body),
        Some(Kind::Turn) => said_again::<words::Turn>(body),
        Some(Kind::Exec) => said_again::<words::Exec>(body),
        Some(Kind::Welcome) => said_again::<words::Welcome>(body),
        Some(Kind::Notice) => said_again::<words::Notice>(body),
        Some(Kind::ControlReply) => said_again::<words::ControlReply>(body),
        Some(Kind::ExecExit) => said_again::<words::ExecExit>(body),
        _ => {
            said_again::<plan::Plan>(body);
            said_again::<plan::Reply>(body);
        }
    }
}

fn said_again<T: DeserializeOwned + serde::Serialize>(body: &[u8]) {
    let Ok(words) = serde_json::from_slice::<T>(body) else { return };
    let once = serde_json::to_vec(&words).expect("what was read can be written");
    let again: T = serde_json::from_slice(&once).expect("and read again");
    assert_eq!(serde_json::to_vec(&again).expect("as before"), once);
}

/// What the CLI may write: any bytes, cut anywhere. Every question gets an answer that is one
/// line of JSON.
pub fn lines(data: &[u8]) {
    let Some((cut, bytes)) = data.split_first() else { return };
    let mut lines = Lines::new(4096);
    let mut total = 0;
    for chunk in bytes.chunks(usize::from(*cut).max(1)) {
        lines.push(chunk, |item| total += hear(&item));
    }
    lines.finish(|item| total += hear(&item));
    let newlines = bytes.iter().filter(|byte| **byte == b'\n').count();
    assert!(total + newlines == bytes.len() && total <= bytes.len(), "bytes were lost or made up");
}

fn hear(item: &Item<'_>) -> usize {
    match item {
        Item::TooLong(length) => *length as usize,
        Item::Line(line) => {
            understand(line);
            line.len()
        }
    }
}

fn understand(line: &[u8]) {
    match speech::understand(line) {
        Ok(speech::Speech::Asks { id, request }) => answer(&id, request),
        Ok(_) => {}
        Err(reason) => assert!(!reason.contains('\n'), "one sentence"),
    }
}

fn answer(id: &str, request: &RawValue) {
    for permissions in [words::Permissions::Allow, words::Permissions::Deny] {
        let answer = permission::answer(id, request, permissions);
        let (newline, line) = answer.split_last().expect("not empty");
        assert!(*newline == b'\n' && !line.contains(&b'\n'), "one line");
        serde_json::from_slice::<&RawValue>(line).expect("JSON");
    }
}

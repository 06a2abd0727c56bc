//! Two messages at once.

use anyhow::{Context as _, Result, ensure};
use ash_journey::{Client, Options, Turn};
use serde_json::{Value, json};

use crate::support::{Talk, both_engines, check_ids, counted};

/// A message that tells which of three policies it wants.
fn message(content: &str, when_busy: &str) -> Value {
    json!({ "content": content, "whenBusy": when_busy })
}

/// A turn that is running.
fn running(talk: &Talk, count: usize) -> Result<Turn> {
    let mut turn = talk.send(&format!("[[count {count} 5ms]]"))?;
    turn.deltas(3)?;
    Ok(turn)
}

both_engines!(a_second_message_waits_its_turn);

fn a_second_message_waits_its_turn(options: Options) -> Result<()> {
    let talk = Talk::begin(options)?;
    let first = running(&talk, 100)?;
    let second = talk.api.send(&talk.session, message("[[say second]]", "queue"))?;
    let (first, second) = (first.to_end()?, second.to_end()?);
    ensure!(first.text() == counted(100) && second.text() == "second");
    let begins = second.seen.first().and_then(|frame| frame.id).context("no frame")?;
    ensure!(begins > first.last_id()?, "the second turn began before the first had ended");
    check_ids(&second.seen)?;
    talk.ash.finish()
}

both_engines!(a_second_message_is_refused_when_it_wants);

fn a_second_message_is_refused_when_it_wants(options: Options) -> Result<()> {
    let talk = Talk::begin(options)?;
    let first = running(&talk, 100)?;
    let refused = talk.api.post_message(&talk.session, &message("x", "reject"))?.answer()?;
    let body = refused.expect(409)?;
    let text =
        "Session is busy with another message; try again when it is answered, or interrupt it";
    ensure!(body["error"] == text, "{body}");
    ensure!(body["statusCode"] == 409, "{body}");
    ensure!(first.to_end()?.text() == counted(100), "the running turn is left alone");
    ensure!(talk.ask("[[say free]]")? == "free");
    talk.ash.finish()
}

both_engines!(a_second_message_interrupts_when_it_wants);

fn a_second_message_interrupts_when_it_wants(options: Options) -> Result<()> {
    let talk = Talk::begin(options)?;
    let first = running(&talk, 100_000)?;
    let waiting = talk.api.send(&talk.session, message("[[say last]]", "queue"))?;
    let urgent = talk.api.send(&talk.session, message("[[say urgent]]", "interrupt"))?;
    first.to_end()?;
    let (urgent, waiting) = (urgent.to_end()?, waiting.to_end()?);
    ensure!(urgent.text() == "urgent" && waiting.text() == "last");
    ensure!(urgent.last_id()? < waiting.last_id()?, "an interrupting message goes first");
    talk.ash.finish()
}

#[test]
fn more_messages_than_may_wait_are_refused() -> Result<()> {
    let talk = Talk::begin(Options::stub().config("[session]\nqueue = 3\n"))?;
    let first = running(&talk, 300)?;
    let queued: Vec<_> = (0..3)
        .map(|n| talk.api.send(&talk.session, message(&format!("[[say {n}]]"), "queue")))
        .collect::<Result<_>>()?;
    let refused = talk.api.post_message(&talk.session, &message("x", "queue"))?.answer()?;
    let body = refused.expect(429)?;
    ensure!(refused.header("retry-after").is_some(), "when to try again is said");
    let text = "Too many messages are waiting for this session (limit 3); try again when some are \
                answered";
    ensure!(body["error"] == text, "{body}");
    ensure!(first.to_end()?.text() == counted(300));
    for (n, turn) in queued.into_iter().enumerate() {
        ensure!(turn.to_end()?.text() == n.to_string());
    }
    talk.ash.finish()
}

#[test]
fn fifty_messages_at_once_make_one_order_of_turns() -> Result<()> {
    let talk = Talk::begin(Options::stub().config("[session]\nqueue = 50\n"))?;
    let first = running(&talk, 100)?;
    let sent: Vec<_> = (0..50)
        .map(|n| talk.api.send(&talk.session, message(&format!("[[say {n}]]"), "queue")))
        .collect::<Result<_>>()?;
    let mut before = first.to_end()?.last_id()?;
    for (n, turn) in sent.into_iter().enumerate() {
        let turn = turn.to_end()?;
        ensure!(turn.text() == n.to_string(), "turn {n} said {}", turn.text());
        ensure!(turn.seen[0].id.is_some_and(|id| id > before), "turns overlap");
        before = turn.last_id()?;
    }
    talk.ash.finish()
}

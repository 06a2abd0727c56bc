//! A turn belongs to the session, not to the request that started it.

use anyhow::{Result, ensure};
use ash_journey::sse::{Frame, Id};
use ash_journey::{Client, Options};

use crate::support::{Talk, both_engines, check_ids, counted};

fn ids(frames: &[Frame]) -> Vec<Option<Id>> {
    frames.iter().map(|frame| frame.id).collect()
}

both_engines!(a_client_that_was_cut_gets_exactly_the_rest);

fn a_client_that_was_cut_gets_exactly_the_rest(options: Options) -> Result<()> {
    let talk = Talk::begin(options)?;
    let mut witness = talk.api.follow_on(&talk.session)?;
    let mut turn = talk.send("[[count 200 5ms]]")?;
    turn.deltas(20)?;
    turn.cut();
    let rest = talk.api.follow(&talk.session, Some(turn.last_id()?))?.to_end()?;

    let whole = [turn.seen.as_slice(), &rest.seen].concat();
    check_ids(&whole)?;
    witness.until_named("done")?;
    ensure!(ids(&whole) == ids(&witness.seen), "{:?} {:?}", ids(&whole), ids(&witness.seen));
    ensure!(whole == witness.seen, "the frames differ from those of an unbroken stream");
    ensure!(turn.deltas_text() + &rest.deltas_text() == counted(200));
    ensure!(rest.text() == counted(200), "{}", rest.text());
    talk.ash.finish()
}

both_engines!(a_client_that_comes_after_the_end_gets_what_is_durable);

fn a_client_that_comes_after_the_end_gets_what_is_durable(options: Options) -> Result<()> {
    let talk = Talk::begin(options)?;
    let mut turn = talk.send("[[count 5]]")?;
    let start = turn.until_named("session_start")?.id;
    turn.to_end()?;
    let late = talk.api.follow(&talk.session, start)?.to_end()?;
    ensure!(late.text() == counted(5));
    ensure!(late.named("text_delta").count() == 0, "deltas are not kept");
    ensure!(late.named("message").any(|frame| frame.data["type"] == "assistant"));
    let nothing = talk.api.follow(&talk.session, Some(late.last_id()?))?;
    ensure!(nothing.to_end().is_err(), "there is nothing behind the end, not even a done");
    talk.ash.finish()
}

both_engines!(every_reader_sees_the_same);

fn every_reader_sees_the_same(options: Options) -> Result<()> {
    let talk = Talk::begin(options)?;
    let mut followers =
        (0..5).map(|_| talk.api.follow_on(&talk.session)).collect::<Result<Vec<_>>>()?;
    let turn = talk.send("[[think hm]][[unicode]][[count 50 1ms]]")?.to_end()?;
    check_ids(&turn.seen)?;
    for follower in &mut followers {
        follower.until_named("done")?;
        ensure!(follower.raw() == turn.raw(), "two readers saw different bytes");
    }
    for torn in ['\u{85}', '\u{2028}', '\u{2029}'] {
        ensure!(!turn.raw().contains(torn), "{torn:?} tears frames in some clients");
    }
    ensure!(turn.text().contains("\u{2028}"), "what was escaped arrives: {:?}", turn.text());
    talk.ash.finish()
}

both_engines!(an_interrupt_ends_the_turn_and_the_next_one_works);

fn an_interrupt_ends_the_turn_and_the_next_one_works(options: Options) -> Result<()> {
    let talk = Talk::begin(options)?;
    ensure!(!talk.api.interrupt(&talk.session)?, "nothing is running");
    let mut turn = talk.send("[[count 100000 5ms]]")?;
    turn.deltas(5)?;
    ensure!(talk.api.interrupt(&talk.session)?, "a turn is running");
    turn.to_end()?;
    ensure!(talk.ask("[[say alive]]")? == "alive");
    let told = talk.ask("[[history]]")?;
    ensure!(told.contains("[[say alive]]"), "{told}");
    talk.ash.finish()
}

both_engines!(stop_and_resume_keep_conversation_and_files);

fn stop_and_resume_keep_conversation_and_files(options: Options) -> Result<()> {
    let talk = Talk::begin(options)?;
    talk.ask(&talk.bash("echo kept > file && cat file"))?;
    for (verb, status) in [("pause", "paused"), ("resume", "active"), ("stop", "stopped")] {
        ensure!(talk.api.turn_to(&talk.session, verb)? == status, "{verb}");
    }
    ensure!(talk.ash.inside("claude").is_empty(), "the CLI of a stopped session is running");
    ensure!(talk.send("x").is_err_and(|e| e.to_string().contains("Session is stopped")));
    ensure!(talk.api.turn_to(&talk.session, "resume")? == "active");
    ensure!(talk.api.exec(&talk.session, "cat file")?.stdout == "kept\n");
    let told = talk.ask("[[history]]")?;
    ensure!(told.contains("echo kept > file"), "{told}");
    ensure!(talk.api.turn_to(&talk.session, "end")? == "ended");
    ensure!(talk.api.turn_to(&talk.session, "end")? == "ended", "ending twice is fine");
    ensure!(talk.api.messages(&talk.session)?.len() >= 4, "history stays readable");
    talk.ash.finish()
}

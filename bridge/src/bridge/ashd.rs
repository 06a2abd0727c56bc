//! Frames from `ashd`. It is trusted; a frame that makes no sense ends the connection all the
//! same, because whatever sent it is not the `ashd` that we know.

use std::collections::BTreeMap;
use std::io;

use ash_wire::frame::Kind;
use ash_wire::words::{ControlReply, Hello, Welcome};
use ash_wire::{OLDEST_VERSION, VERSION};
use serde::de::DeserializeOwned;
use serde_json::value::RawValue;

use crate::cli::Asker;
use crate::fault;
use crate::link::Frame;
use crate::turn::{Interrupted, Millis};

use super::Bridge;

/// How long the CLI may take to answer a control request. Some make a call to the model.
const CONTROL_TIMEOUT: Millis = 120_000;

/// Control requests that wait at a time.
const MAX_ASKED: usize = 64;

impl Bridge {
    pub(super) fn hear_ashd(&mut self) -> io::Result<()> {
        let mut buffer = std::mem::take(&mut self.buffer);
        let frames = self.link.as_mut().map(|link| link.read(&mut buffer));
        self.buffer = buffer;
        match frames {
            Some(Ok(frames)) => {
                for frame in frames {
                    self.hear(frame)?;
                }
            }
            Some(Err(_)) => self.unlink(),
            None => {}
        }
        Ok(())
    }

    fn hear(&mut self, frame: Frame) -> io::Result<()> {
        let Some(link) = &self.link else { return Ok(()) };
        if link.is_greeted() == (frame.kind == Kind::Hello) {
            self.unlink();
            return Ok(());
        }
        let serial = link.serial;
        match frame.kind {
            Kind::Hello => self.with(&frame.body, |bridge, hello| {
                bridge.greet(&hello);
                Ok(())
            }),
            Kind::Start => self.with(&frame.body, Bridge::start),
            Kind::Turn => self.with(&frame.body, |bridge, turn| {
                let mut effects = Vec::new();
                bridge.turns.submit(turn, bridge.now(), &mut effects);
                bridge.apply(effects, None, Asker::Nobody)
            }),
            Kind::Control => {
                self.control(Asker::Control(serial, frame.number), &frame.body);
                Ok(())
            }
            Kind::Interrupt => self.interrupt(Asker::Interrupt(serial, frame.number)),
            Kind::Exec => {
                self.with(&frame.body, |bridge, exec| bridge.exec(serial, frame.number, exec))
            }
            Kind::ExecKill => self.kill_command(serial, frame.number),
            Kind::Ack => {
                self.log.acknowledge(frame.number);
                self.release();
                Ok(())
            }
            Kind::Shutdown => self.close(),
            Kind::Drain => {
                self.draining = Some((serial, frame.number));
                Ok(())
            }
            _ => {
                self.unlink();
                Ok(())
            }
        }
    }

    /// Reads a frame's body and goes on with it.
    fn with<T: DeserializeOwned>(
        &mut self,
        body: &[u8],
        then: impl FnOnce(&mut Bridge, T) -> io::Result<()>,
    ) -> io::Result<()> {
        match serde_json::from_slice(body) {
            Ok(words) => then(self, words),
            Err(_) => {
                self.unlink();
                Ok(())
            }
        }
    }

    fn greet(&mut self, hello: &Hello) {
        fault::point("bridge.greeted");
        let version = hello.version.min(VERSION);
        if version < hello.oldest.max(OLDEST_VERSION) {
            return self.unlink();
        }
        let welcome = Welcome {
            version,
            sandbox: self.parts.sandbox.clone(),
            cli: self.turns.state(),
            turn: self.turns.turn().map(str::to_owned),
            tag: self.tag().map(str::to_owned),
            last_event: self.log.last(),
            resend_to: self.log.newest_kept(),
            commands_ms: self.commands_ms(),
            tasks: self.tasks.tell(),
        };
        let welcome = serde_json::to_vec(&welcome).unwrap_or_default();
        // What never was is not waited for.
        let first = hello.resend_from.min(self.log.last() + 1);
        self.link.iter_mut().for_each(|link| link.greet(version, first, &welcome));
    }

    /// The tag of the CLI that runs, or of the one that takes its place.
    fn tag(&self) -> Option<&str> {
        let next = self.next.as_ref().map(|start| start.tag.as_str());
        next.or(self.cli.as_ref().map(|cli| cli.tag.as_str()))
    }

    fn control(&mut self, asker: Asker, body: &[u8]) {
        let refusal = match (&mut self.cli, control_request(body)) {
            (_, Err(refusal)) => refusal,
            (None, _) => "the CLI is gone",
            (Some(cli), _) if cli.asked.len() >= MAX_ASKED => "too many requests wait for the CLI",
            (Some(cli), Ok(request)) => {
                let until = u64::try_from(self.clock.elapsed().as_millis()).unwrap_or(0);
                return cli.ask(&request, asker, until + CONTROL_TIMEOUT);
            }
        };
        self.reply(asker, Err(refusal.to_owned()));
    }

    fn interrupt(&mut self, asker: Asker) -> io::Result<()> {
        let mut effects = Vec::new();
        let met = self.turns.interrupt(self.now(), &mut effects);
        if met != Interrupted::Running {
            self.reply(asker, Ok(interrupted(met == Interrupted::Held)));
        }
        self.apply(effects, None, asker)
    }

    /// Sends the answer to who asked, if that connection is still there.
    pub(super) fn reply(&mut self, asker: Asker, answer: Result<Option<Box<RawValue>>, String>) {
        let (Asker::Control(serial, number) | Asker::Interrupt(serial, number)) = asker else {
            return;
        };
        let reply = match answer {
            Ok(response) => ControlReply { response, error: None },
            Err(error) => ControlReply { response: None, error: Some(error) },
        };
        let body = serde_json::to_vec(&reply).unwrap_or_default();
        self.push(serial, Kind::ControlReply, number, &body);
    }

    /// Sends a frame that is not an event, if that connection is still there.
    pub(super) fn push(&mut self, serial: u64, kind: Kind, number: u64, body: &[u8]) {
        if let Some(link) = self.link.as_mut().filter(|link| link.serial == serial) {
            link.push(kind, number, body);
        }
    }
}

/// The answer to an interrupt.
pub(super) fn interrupted(any: bool) -> Option<Box<RawValue>> {
    RawValue::from_string(format!(r#"{{"interrupted":{any}}}"#)).ok()
}

/// What is not ours to pass on: these two would go past the bridge's own bookkeeping.
const RESERVED: [&str; 2] = [r#""initialize""#, r#""interrupt""#];

fn control_request(body: &[u8]) -> Result<Box<RawValue>, &'static str> {
    const NO_REQUEST: &str = "the request is not a JSON object with a subtype";
    let fields: BTreeMap<String, &RawValue> =
        serde_json::from_slice(body).map_err(|_| NO_REQUEST)?;
    let subtype = fields.get("subtype").map(|subtype| subtype.get()).ok_or(NO_REQUEST)?;
    if RESERVED.contains(&subtype) {
        return Err("initialize and interrupt have frames of their own");
    }
    serde_json::from_slice(body).map_err(|_| NO_REQUEST)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_control_request_has_a_subtype_that_is_not_reserved() {
        let request = control_request(br#"{"subtype":"set_model","n":1e400}"#).unwrap();
        assert_eq!(request.get(), r#"{"subtype":"set_model","n":1e400}"#);
        for bad in ["", "[]", "{}", "\"subtype\"", r#"{"subtype":"interrupt"}"#] {
            assert!(control_request(bad.as_bytes()).is_err(), "{bad}");
        }
    }
}

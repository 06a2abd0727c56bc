//! What is left to do when the spawner is gone, and with it all of the agent: usually the kernel
//! ended both for want of memory. What the agent had said is delivered all the same, to this `ashd`
//! or to the next.

use super::Bridge;

impl Bridge {
    /// Ends when everything but deltas was acknowledged, when nobody has come for too long, or at once when
    /// it is told to end: then nobody listens.
    pub(super) fn deliver_the_rest(&mut self) {
        self.bereft = true;
        self.done |= self.closing.is_some();
        // What cannot be heard because the log is full is lost with the CLI.
        let _ = self.hear_out();
        self.next = None;
        self.commands.clear();
        // Last of all, so that whoever acknowledges is alive: what was acknowledged before may have
        // been by an `ashd` that is gone and was not seen going.
        if let Some(mut cli) = self.cli.take() {
            self.tasks.forget();
            let notice = cli.obituary();
            self.notice(&notice);
        }
        while !self.done && !self.is_delivered() && self.round().is_ok() {}
    }

    fn is_delivered(&self) -> bool {
        let written =
            self.link.as_ref().is_some_and(|link| link.is_greeted() && !link.has_work(&self.log));
        written && !self.log.owes()
    }
}

#[cfg(test)]
mod tests {
    use ash_wire::frame::{self, Kind};

    use crate::bridge::stage::Stage;

    /// Whichever of the two it hears of first.
    #[test]
    fn one_that_was_told_to_end_has_nothing_to_say_of_its_spawner_s_end() {
        for is_told_first in [true, false] {
            let Stage { mut bridge, mut ashd, spawner, listener: _listener } = Stage::set();
            // What nobody acknowledges.
            bridge.record(Kind::Line, b"{}");
            frame::write(&mut ashd, Kind::Shutdown, 0, &[]).unwrap();
            if is_told_first {
                bridge.round().unwrap();
                assert!(bridge.closing.is_some());
            }
            drop(spawner);
            bridge.run().unwrap();
        }
    }
}

//! What is left to do when the spawner is gone, and with it all of the agent: usually the kernel
//! ended both for want of memory. What the agent had said is delivered all the same, to this `ashd`
//! or to the next.

use super::Bridge;

impl Bridge {
    /// Ends when everything but deltas was acknowledged, or when nobody has come for too long.
    pub(super) fn deliver_the_rest(&mut self) {
        self.bereft = true;
        // What cannot be heard because the log is full is lost with the CLI.
        let _ = self.hear_out();
        self.next = None;
        self.commands.clear();
        // Last of all, so that whoever acknowledges is alive: what was acknowledged before may have
        // been by an `ashd` that is gone and was not seen going.
        if let Some(mut cli) = self.cli.take() {
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

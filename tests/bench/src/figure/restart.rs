//! How long the daemon is away when it is started again.

use anyhow::{Result, ensure};
use ash_modelapi::monotonic_ns;

use super::{About, Outcome, Scale};
use crate::report::{Row, Unit};
use crate::stage;
use crate::stats::Times;

pub(super) const ABOUT: About = About {
    title: "ashd with 100 live sessions, killed and started again, stand-in for the CLI",
    how: "ashd is killed (SIGKILL), and started again. The clock starts before its process does and \
          stops with READY=1, which it says when it has all sandboxes again and serves; that it has \
          them is looked up. Launcher, broker and sandboxes live on meanwhile. Beside it, the same \
          without any session.",
    measure,
};

const SESSIONS: usize = 100;

fn measure(scale: Scale) -> Result<Outcome> {
    let rounds = scale.of(20);
    let none = restarts(0, rounds)?;
    let many = restarts(scale.of(SESSIONS), rounds)?;
    let each = (many.quantile(0.5) - none.quantile(0.5)) / scale.of(SESSIONS) as f64;
    let rows = vec![
        Row::times("until all are attached", &many).floor(300.0),
        Row::times("without sessions", &none),
        Row::plain("for each session", many.n(), Unit::Ms, each),
    ];
    Ok(Outcome { rows, notes: vec![] })
}

fn restarts(sessions: usize, rounds: usize) -> Result<Times> {
    let mut ash = stage::stub()?;
    for _ in 0..sessions {
        stage::used_session(&ash)?;
    }
    let mut times = Times::default();
    for _ in 0..rounds {
        ash.kill9()?;
        let begin = monotonic_ns();
        ash.boot()?;
        times.add(begin, monotonic_ns());
        let health = ash.api().health()?;
        ensure!(health["activeSandboxes"] == sessions, "not all are attached: {health}");
    }
    ash.finish()?;
    Ok(times)
}

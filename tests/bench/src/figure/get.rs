//! How many reads per second.

use std::process::Command;

use anyhow::{Context as _, Result, ensure};

use super::{About, Outcome, Scale};
use crate::report::{Row, Unit};
use crate::stage;
use crate::stats;

pub(super) const ABOUT: About = About {
    title: "GET /api/sessions/:id per second, key checked, committed state",
    how: "`wrk -t1 -c64 -d10s --latency` with the API key in the header, on the same machine, against \
          a session that has had a turn. Any answer but 200 fails the run.",
    measure,
};

const RUNS: usize = 5;

fn measure(scale: Scale) -> Result<Outcome> {
    let ash = stage::stub()?;
    let session = stage::session(&ash.api())?;
    stage::send(&ash.api(), &session, "first", false)?.finish()?;
    let url = format!("http://{}/api/sessions/{session}", ash.address());
    let seconds = scale.of(10);
    let mut runs = vec![];
    for _ in 0..RUNS {
        runs.push(wrk(&url, ash.key(), seconds)?);
    }
    ash.finish()?;
    let of = |pick: fn(&Run) -> f64| stats::median(&runs.iter().map(pick).collect::<Vec<_>>());
    let rate = Row::plain("requests", RUNS, Unit::PerSecond, of(|run| run.rate)).floor(60_000.0);
    let latency = Row::plain("latency", RUNS, Unit::Ms, of(|run| run.p50));
    let latency = Row { p99: Some(of(|run| run.p99)), ..latency };
    let all = runs.iter().map(|run| format!("{:.0}", run.rate)).collect::<Vec<_>>().join(", ");
    let notes = vec![format!("Runs of {seconds} s: {all} per second; values are medians of runs")];
    Ok(Outcome { rows: vec![rate, latency], notes })
}

/// What wrk says.
#[derive(Debug, PartialEq)]
struct Run {
    rate: f64,
    p50: f64,
    p99: f64,
}

fn wrk(url: &str, key: &str, seconds: usize) -> Result<Run> {
    let mut wrk = Command::new("wrk");
    wrk.args(["-t1", "-c64", "--latency", &format!("-d{seconds}s"), "-H"]);
    let output = wrk.arg(format!("Authorization: Bearer {key}")).arg(url).output();
    let output = output.context("wrk cannot be run; is it installed?")?;
    let text = String::from_utf8_lossy(&output.stdout);
    ensure!(output.status.success() && !text.contains("Non-2xx"), "wrk failed:\n{text}");
    parse(&text).with_context(|| format!("wrk said something unexpected:\n{text}"))
}

fn parse(text: &str) -> Option<Run> {
    let value =
        |key: &str| text.lines().find_map(|line| line.trim().strip_prefix(key)).map(str::trim);
    let rate = value("Requests/sec:")?.parse().ok()?;
    Some(Run { rate, p50: millis(value("50%")?)?, p99: millis(value("99%")?)? })
}

/// `472.00us`, `1.01ms` or `1.20s`.
fn millis(text: &str) -> Option<f64> {
    let (number, per_ms) = match text {
        text if text.ends_with("us") => (text.strip_suffix("us")?, 1e3),
        text if text.ends_with("ms") => (text.strip_suffix("ms")?, 1.0),
        text => (text.strip_suffix('s')?, 1e-3),
    };
    Some(number.parse::<f64>().ok()? / per_ms)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_wrk_says_is_understood() {
        let text = "  Latency Distribution\n     50%  472.00us\n     75%  600.00us\n     \
                    90%    1.00ms\n     99%    1.25ms\n  1350000 requests in 10.00s, 1.2GB read\n\
                    Requests/sec: 135000.12\nTransfer/sec:    120.00MB\n";
        assert_eq!(parse(text), Some(Run { rate: 135_000.12, p50: 0.472, p99: 1.25 }));
        assert_eq!(parse("unable to connect"), None);
    }
}

//! `ashctl top`.

use std::cmp::Ordering;
use std::collections::HashMap;
use std::time::{Duration, Instant};

use ash_dbus::value::{Health, LoadInfo};
use serde_json::Value;
use tokio::signal::ctrl_c;
use tokio::time::sleep;

use super::Context;
use crate::bus::Bus;
use crate::failure::Failure;
use crate::json;
use crate::out::aligned;

/// Goes to the terminal's first corner, and clears everything behind it.
const HOME: &[u8] = b"\x1b[H\x1b[J";

const COLUMNS: [&str; 13] = [
    "SESSION", "AGENT", "STATE", "SANDBOX", "TURN", "CPU", "TIME", "MEMORY", "PIDS", "READ",
    "WRITTEN", "TOKENS", "COST",
];

/// The column that is not known before the second look.
const SHARE: usize = 5;

/// Characters of a turn's id that are shown where lines are too long for all of it.
const TURN: usize = 8;

/// Shows a table, on a terminal again and again until Ctrl-C.
pub(super) async fn run(mut context: Context, interval: Duration) -> Result<(), Failure> {
    if context.as_json || !context.out.is_terminal() {
        let loads = context.bus.manager.top().await?;
        if context.document(&loads.iter().map(json::load).collect::<Value>())? {
            return Ok(());
        }
        let mut rows = table(&loads, &HashMap::new(), usize::MAX);
        rows.iter_mut().for_each(|row| drop(row.remove(SHARE)));
        let head = head(&context.bus).await;
        head.iter().try_for_each(|line| context.out.line(line))?;
        return context.out.table(&rows);
    }
    tokio::select! {
        shown = refresh(&mut context, interval) => shown,
        _ = ctrl_c() => Ok(()),
    }
}

async fn refresh(context: &mut Context, interval: Duration) -> Result<(), Failure> {
    let mut before = (Instant::now(), HashMap::new());
    loop {
        let mut loads = match context.bus.manager.top().await.map_err(Failure::from) {
            // Perhaps it restarts: whoever watches wants to see that, and what comes then.
            Err(Failure::Absent(_)) => {
                context.bus.wait_for_daemon().await?;
                continue;
            }
            loads => loads?,
        };
        let now = Instant::now();
        let shares = shares(&loads, &before.1, now - before.0);
        before = (now, loads.iter().map(|load| (load.id.clone(), load.cpu_us)).collect());
        loads.sort_by(|one, other| busier(one, other, &shares));
        let (mut lines, (width, height)) = (head(&context.bus).await, size());
        // One more line is the head's, and the last one the cursor's.
        let room = height.saturating_sub(lines.len() + 2).max(1);
        let left_out = loads.len().saturating_sub(room);
        loads.truncate(loads.len() - left_out);
        lines.extend(fitting(&loads, &shares, width));
        if left_out > 0 {
            lines.pop();
            lines.push(format!("and {} more, which do less", left_out + 1));
        }
        context.out.bytes(HOME)?;
        for line in lines {
            context.out.line(&line.chars().take(width).collect::<String>())?;
        }
        sleep(interval).await;
    }
}

/// What becomes of sandboxes that nobody uses, and which wait for somebody; nothing, when the daemon does not
/// say.
async fn head(bus: &Bus) -> Vec<String> {
    match bus.manager.status().await {
        Ok(health) => {
            let warm = warm(&health).map(|warm| format!("warm   {warm}"));
            times(&health).into_iter().chain([saved(&health)]).chain(warm).collect()
        }
        Err(_) => vec![],
    }
}

/// When they take which step. Daemons of before do not tell.
fn times(health: &Health) -> Option<String> {
    let step = |(what, ms): (&str, u64)| match ms {
        0 => format!("never {what}"),
        ms => format!("{what} after {}", span(ms)),
    };
    let steps = [
        ("frozen", health.freeze_after_ms?),
        ("reclaimed", health.reclaim_after_ms?),
        ("ended", health.idle_timeout_ms?),
    ];
    let cleared = health.clear_after_ms.map(|ms| ("cleared", ms));
    let steps: Vec<_> = steps.into_iter().chain(cleared).map(step).collect();
    let background = match health.background_ms? {
        0 => "not held".to_owned(),
        ms => format!("held for {}", span(ms)),
    };
    let (steps, most) = (steps.join(", "), health.per_tick?);
    Some(format!("idle   {steps}; {most} at a look; background {background}"))
}

/// What that has saved till now.
fn saved(health: &Health) -> String {
    let reclaimed = health.reclaimed.map(|count| format!(", {count} reclaimed"));
    let freezes = health.freezes.map(|times| format!("{times} freezes, "));
    format!(
        "saved  {} frozen{}; since the start {}{} given back, {} ended, {} of them for others{}",
        health.frozen,
        reclaimed.unwrap_or_default(),
        freezes.unwrap_or_default(),
        bytes(health.reclaimed_bytes),
        health.cooled,
        health.evictions,
        cleared(health).unwrap_or_default()
    )
}

/// How many sessions have given their files back till now, as the end of a list of what was saved.
pub(super) fn cleared(health: &Health) -> Option<String> {
    let (count, size) = (health.cleared?, health.cleared_bytes?);
    Some(format!("; {count} cleared of their files, {}", bytes(size)))
}

/// What there is of sandboxes that wait for sessions that are yet to be made. Daemons of before do not tell.
pub(super) fn warm(health: &Health) -> Option<String> {
    let (warm, most, hits) = (health.warm?, health.max_warm?, health.pre_warm_hits?);
    Some(format!("{warm} of at most {most} ready, {hits} taken since the start"))
}

/// Characters of a line and lines that the terminal shows, as far as it says.
fn size() -> (usize, usize) {
    let size = rustix::termios::tcgetwinsize(std::io::stdout());
    let said = |length: u16| if length == 0 { usize::MAX } else { length.into() };
    size.map_or((usize::MAX, usize::MAX), |size| (said(size.ws_col), said(size.ws_row)))
}

/// Whoever uses more of the processors comes first, then who holds more memory.
fn busier(one: &LoadInfo, other: &LoadInfo, shares: &HashMap<String, f64>) -> Ordering {
    let share = |load: &LoadInfo| shares.get(&load.id).copied().unwrap_or_default();
    share(other).total_cmp(&share(one)).then(other.memory.cmp(&one.memory))
}

/// What each session has used of a processor in between, in percent.
fn shares(
    loads: &[LoadInfo],
    before: &HashMap<String, u64>,
    between: Duration,
) -> HashMap<String, f64> {
    let share = |load: &LoadInfo| {
        let used = load.cpu_us.checked_sub(*before.get(&load.id)?)?;
        let share = used as f64 / between.as_micros().max(1) as f64 * 100.0;
        Some((load.id.clone(), share))
    };
    loads.iter().filter_map(share).collect()
}

/// The table with whole ids, to search the journal for, if it is not wider than this.
fn fitting(loads: &[LoadInfo], shares: &HashMap<String, f64>, width: usize) -> Vec<String> {
    let whole = aligned(&table(loads, shares, usize::MAX));
    match whole.iter().all(|line| line.chars().count() <= width) {
        true => whole,
        false => aligned(&table(loads, shares, TURN)),
    }
}

/// A row for each session, with so much of its turn's id at most.
fn table(loads: &[LoadInfo], shares: &HashMap<String, f64>, most: usize) -> Vec<Vec<String>> {
    let mut rows = vec![COLUMNS.map(String::from).to_vec()];
    rows.extend(loads.iter().map(|load| row(load, shares.get(&load.id).copied(), most)));
    rows
}

fn row(load: &LoadInfo, share: Option<f64>, most: usize) -> Vec<String> {
    let turn = if load.turn.is_empty() { "-" } else { load.turn.get(..most).unwrap_or(&load.turn) };
    let sandbox = if load.sandbox.is_empty() { "-" } else { load.sandbox.as_str() };
    vec![
        load.id.clone(),
        load.agent_name.clone(),
        load.status.clone(),
        sandbox.to_owned(),
        turn.to_owned(),
        share.map_or_else(|| "-".to_owned(), |share| format!("{share:.0}%")),
        time(load.cpu_us),
        bytes(load.memory),
        load.pids.to_string(),
        bytes(load.read_bytes),
        bytes(load.written_bytes),
        format!("{}/{}", short(load.input_tokens), short(load.output_tokens)),
        format!("{:.2} USD", load.cost_usd),
    ]
}

/// A time in the largest unit of which it is a multiple, as in the configuration.
fn span(ms: u64) -> String {
    const UNITS: [(u64, &str); 4] =
        [(86_400_000, "d"), (3_600_000, "h"), (60_000, "min"), (1000, "s")];
    let fits = UNITS.iter().find(|(unit, _)| ms >= *unit && ms.is_multiple_of(*unit));
    fits.map_or_else(|| format!("{ms}ms"), |(unit, name)| format!("{}{name}", ms / unit))
}

/// Minutes and seconds.
fn time(micros: u64) -> String {
    let tenths = micros / 100_000;
    format!("{}:{:02}.{}", tenths / 600, tenths / 10 % 60, tenths % 10)
}

pub(super) fn bytes(count: u64) -> String {
    scaled(count, 1024.0, &["B", "KiB", "MiB", "GiB", "TiB"])
}

fn short(count: u64) -> String {
    scaled(count, 1000.0, &["", "k", "M", "G"])
}

/// At most four digits, in the unit that this takes.
fn scaled(count: u64, step: f64, units: &[&str]) -> String {
    let (mut number, mut unit) = (count as f64, 0);
    while number >= step && unit + 1 < units.len() {
        number /= step;
        unit += 1;
    }
    match unit {
        0 => format!("{count}{}", units[0]),
        _ => format!("{number:.1}{}", units[unit]),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_short() {
        assert_eq!(bytes(1023), "1023B");
        assert_eq!(bytes(1536 << 20), "1.5GiB");
        assert_eq!(short(999), "999");
        assert_eq!(short(1_234_567), "1.2M");
        assert_eq!(time(83_400_000), "1:23.4");
    }

    #[test]
    fn ids_are_shortened_only_where_they_do_not_fit() {
        let id = "3f0c6a52-0c3e-4b1e-9a57-2f1f0e9d8c7b";
        let load = LoadInfo { id: id.into(), turn: id.into(), ..LoadInfo::default() };
        let of_width =
            |width| fitting(std::slice::from_ref(&load), &HashMap::new(), width)[1].clone();
        let whole = of_width(usize::MAX);
        assert_eq!(whole.matches(id).count(), 2, "{whole}");
        assert_eq!(of_width(whole.len()), whole);
        let short = of_width(whole.len() - 1);
        assert!(short.starts_with(id) && short.contains(" 3f0c6a52 "), "{short}");
    }

    #[test]
    fn what_becomes_of_sandboxes_that_nobody_uses_is_told() {
        assert_eq!(
            [1, 1500, 60_000, 90_000, 14_400_000, 172_800_000].map(span),
            ["1ms", "1500ms", "1min", "90s", "4h", "2d"]
        );
        let before = Health { frozen: 3, cooled: 2, evictions: 1, ..Health::default() };
        assert_eq!(times(&before), None, "a daemon of before");
        let expected =
            "saved  3 frozen; since the start 0B given back, 2 ended, 1 of them for others";
        assert_eq!(saved(&before), expected);
        assert_eq!(warm(&before), None);
        let health = Health {
            freeze_after_ms: Some(0),
            reclaim_after_ms: Some(0),
            idle_timeout_ms: Some(1_800_000),
            background_ms: Some(0),
            per_tick: Some(5),
            ..before
        };
        let expected = "idle   never frozen, never reclaimed, ended after 30min; 5 at a look; \
                        background not held";
        assert_eq!(times(&health).as_deref(), Some(expected));
        let health = Health {
            clear_after_ms: Some(172_800_000),
            cleared: Some(4),
            cleared_bytes: Some(1536),
            warm: Some(1),
            pre_warm_hits: Some(7),
            max_warm: Some(16),
            ..health
        };
        let shown = times(&health).unwrap();
        assert!(shown.contains(", ended after 30min, cleared after 2d; 5 at a look"), "{shown}");
        let shown = saved(&health);
        assert!(
            shown.ends_with("1 of them for others; 4 cleared of their files, 1.5KiB"),
            "{shown}"
        );
        let expected = "1 of at most 16 ready, 7 taken since the start";
        assert_eq!(warm(&health).as_deref(), Some(expected));
        let never = Health { clear_after_ms: Some(0), ..health };
        assert!(times(&never).unwrap().contains(", never cleared; "), "0 is never");
    }

    #[test]
    fn who_does_most_comes_first() {
        let load = |id: &str, memory| LoadInfo { id: id.into(), memory, ..LoadInfo::default() };
        let mut loads = [load("idle", 1), load("large", 9), load("hog", 0)];
        let shares = HashMap::from([("hog".to_owned(), 80.0)]);
        loads.sort_by(|one, other| busier(one, other, &shares));
        assert_eq!(loads.map(|load| load.id), ["hog", "large", "idle"]);
    }

    #[test]
    fn the_share_is_of_the_time_in_between() {
        let load = |id: &str, cpu_us| LoadInfo { id: id.into(), cpu_us, ..LoadInfo::default() };
        let before = HashMap::from([("a".to_owned(), 1_000_000), ("b".to_owned(), 9)]);
        let loads = [load("a", 4_000_000), load("b", 3), load("new", 7)];
        let shares = shares(&loads, &before, Duration::from_secs(2));
        // One began anew, in another sandbox; one was not there.
        assert_eq!(shares, HashMap::from([("a".to_owned(), 150.0)]));
    }
}

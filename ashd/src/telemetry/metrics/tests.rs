use std::collections::BTreeSet;
use std::io::Write;
use std::process::{Command, Stdio};
use std::time::Duration;

use prometheus::Registry;
use serde_json::{Value, json};

use super::family::{Family, next};
use super::labels::{Class, Denied, Resumed, TokenKind, Verb, Word};
use super::table::{Declared, Kind, Traits};
use super::*;

/// A registry that knows three families of its own.
fn small() -> (Registry, IntCounter, Counters<TokenKind>, Histograms<Class>) {
    let declared =
        |name, about, kind, traits| Declared { name, about, kind, rows: Vec::new, traits };
    let buckets = &[0.5, 10.0];
    let rows = [
        declared("ash_one_total", " One\n of\\two.\n", Kind::Counter, Traits::NONE),
        declared(
            "ash_tokens_total",
            " Tokens.\n",
            Kind::Counter,
            Traits { labels: &["kind"], ..Traits::NONE },
        ),
        declared(
            "ash_answer_seconds",
            " Answers.\n",
            Kind::Histogram,
            Traits { labels: &["status"], buckets, ..Traits::NONE },
        ),
    ];
    let (registry, mut rows) = (Registry::new(), rows.iter());
    let one = next(&mut rows, &registry).unwrap();
    let tokens = next(&mut rows, &registry).unwrap();
    let answers = next(&mut rows, &registry).unwrap();
    assert!(next::<IntCounter>(&mut rows, &registry).is_err(), "one is missing");
    (registry, one, tokens, answers)
}

#[test]
fn the_text_is_what_scrapers_of_this_version_read() {
    let (registry, one, tokens, answers) = small();
    one.inc();
    tokens.of(TokenKind::CacheRead).inc_by(300);
    for seconds in [0.5, 2.0, 20.0] {
        answers.of(Class::Successful).observe(seconds);
    }
    let text = TextEncoder::new().encode_to_string(&registry.gather()).unwrap();
    let histogram = |status: &str, [half, ten, all]: [u8; 3], sum: &str| {
        let name = "ash_answer_seconds";
        format!(
            "{name}_bucket{{status=\"{status}\",le=\"0.5\"}} {half}\n\
             {name}_bucket{{status=\"{status}\",le=\"10\"}} {ten}\n\
             {name}_bucket{{status=\"{status}\",le=\"+Inf\"}} {all}\n\
             {name}_sum{{status=\"{status}\"}} {sum}\n{name}_count{{status=\"{status}\"}} {all}\n"
        )
    };
    let expected = [
        "# HELP ash_answer_seconds Answers.\n# TYPE ash_answer_seconds histogram\n".to_owned(),
        histogram("1xx", [0; 3], "0"),
        histogram("2xx", [1, 2, 3], "22.5"),
        histogram("3xx", [0; 3], "0"),
        histogram("4xx", [0; 3], "0"),
        histogram("5xx", [0; 3], "0"),
        "# HELP ash_one_total One of\\\\two.\n# TYPE ash_one_total counter\nash_one_total 1\n"
            .to_owned(),
        "# HELP ash_tokens_total Tokens.\n# TYPE ash_tokens_total counter\n\
         ash_tokens_total{kind=\"cache_creation\"} 0\nash_tokens_total{kind=\"cache_read\"} 300\n\
         ash_tokens_total{kind=\"input\"} 0\nash_tokens_total{kind=\"output\"} 0\n"
            .to_owned(),
    ];
    assert_eq!(text, expected.concat());
}

#[test]
fn a_name_is_declared_once() {
    let names: Vec<_> = Metrics::names().collect();
    let different: BTreeSet<_> = names.iter().collect();
    assert_eq!(different.len(), names.len());
    let declared = Declared {
        name: "ash_twice",
        about: " x\n",
        kind: Kind::Gauge,
        rows: <IntGauge as Family>::rows,
        traits: Traits::NONE,
    };
    let registry = Registry::new();
    assert!(IntGauge::make(&declared, &registry).is_ok());
    assert!(IntGauge::make(&declared, &registry).is_err());
}

/// What a label may say is written in docs/metrics.md, one word like the other, and no two rows of a family
/// run together to the same letters: the library knows a series by these.
#[test]
fn labels_have_few_values_and_each_row_its_own() {
    for family in families::GROUPS.iter().flat_map(|group| group.families) {
        let rows = (family.rows)();
        let letters: BTreeSet<_> = rows.iter().map(|row| row.concat()).collect();
        assert_eq!(letters.len(), rows.len(), "{}", family.name);
        assert!(rows.len() <= 9, "{}", family.name);
        let named = family.traits.labels.len();
        assert!(rows.iter().all(|row| row.len() == named), "{}", family.name);
        let ours = |label: &&str| ["tenant", "agent", "session", "sandbox", "le"].contains(label);
        assert!(!family.traits.labels.iter().any(ours), "{}", family.name);
        assert_eq!(family.kind == Kind::Histogram, !family.traits.buckets.is_empty());
    }
}

#[test]
fn the_names_that_clients_know_are_kept() {
    let metrics = Metrics::new();
    metrics.up.with_label_values(&["host-1"]).set(1);
    let text = metrics.told(|metrics| {
        set(&metrics.pool_max, 1000);
        follow(metrics.resumes.of(labels::ResumePath::Warm), 7);
        follow(metrics.resumes.of(labels::ResumePath::Warm), 7);
    });
    for line in [
        "ash_up{coordinator=\"host-1\"} 1\n",
        "ash_uptime_seconds 0\n",
        "ash_active_sessions 0\n",
        "ash_active_sandboxes 0\n",
        "ash_pool_sandboxes{state=\"cold\"} 0\n",
        "ash_pool_sandboxes{state=\"warming\"} 0\n",
        "ash_pool_sandboxes{state=\"warm\"} 0\n",
        "ash_pool_sandboxes{state=\"waiting\"} 0\n",
        "ash_pool_sandboxes{state=\"running\"} 0\n",
        "ash_pool_max_capacity 1000\n",
        "ash_resume_total{path=\"warm\"} 7\n",
        "ash_resume_total{path=\"cold\"} 0\n",
        "ash_resume_total{path=\"prewarm\"} 0\n",
        "ash_resume_cold_total{source=\"local\"} 0\n",
        "ash_resume_cold_total{source=\"cloud\"} 0\n",
        "ash_resume_cold_total{source=\"fresh\"} 0\n",
    ] {
        assert!(text.contains(line), "{line:?} is not in {text}");
    }
    set(&metrics.pool_max, u64::MAX);
    assert_eq!(metrics.pool_max.get(), i64::MAX);
}

#[tokio::test]
async fn what_fails_is_not_measured() {
    let metrics = Metrics::new();
    let done = async |result: Result<u8, u8>| timed(&metrics.spawns, async { result }).await;
    assert_eq!((done(Ok(1)).await, done(Err(2)).await), (Ok(1), Err(2)));
    assert_eq!(metrics.spawns.get_sample_count(), 1);
    metrics.resume_times.of(Resumed::Fresh).observe(1.0);
    let line = "ash_resume_seconds_count{path=\"cold\",source=\"fresh\"} 1\n";
    assert!(metrics.text().contains(line), "{}", metrics.text());
}

/// Of those whom a launch kept waiting the dashboard says how long, and of those whom nothing did as well.
#[test]
fn whoever_is_served_at_once_and_whoever_waits_long_are_told_apart() {
    let metrics = Metrics::new();
    for seconds in [0.0005, 45.0, 1000.0] {
        metrics.queue_wait.observe(seconds);
        metrics.resume_times.of(Resumed::Cloud).observe(seconds);
    }
    let text = metrics.text();
    for (family, labels) in
        [("ash_queue_wait", ""), ("ash_resume", "path=\"cold\",source=\"cloud\",")]
    {
        for (le, count) in [("0.001", 1), ("30", 1), ("60", 2), ("1800", 3)] {
            let line = format!("{family}_seconds_bucket{{{labels}le=\"{le}\"}} {count}\n");
            assert!(text.contains(&line), "{line:?} is not in {text}");
        }
    }
}

#[test]
fn the_reference_is_what_users_read() {
    let page = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/metrics.md");
    let page = std::fs::read_to_string(page).unwrap();
    assert!(page == Metrics::reference(), "write Metrics::reference() to docs/metrics.md");
}

/// Words that could be names of our families, in a text.
fn named(text: &str) -> BTreeSet<&str> {
    let words = text.split(|c: char| !(c.is_ascii_alphanumeric() || c == '_'));
    words.filter(|word| word.starts_with("ash_")).collect()
}

/// A name without what a histogram has behind it.
fn family_of(name: &str) -> &str {
    let ends = ["_bucket", "_sum", "_count"];
    ends.iter().find_map(|end| name.strip_suffix(end)).unwrap_or(name)
}

/// What the dashboard asks.
fn queries() -> Vec<String> {
    let text = include_str!("../../../../packaging/grafana.json");
    let dashboard: Value = serde_json::from_str(text).unwrap();
    let panels = dashboard["panels"].as_array().unwrap();
    assert!(panels.len() > 10, "{} panels", panels.len());
    let panels = panels.iter().filter(|panel| panel["type"] != "row");
    let queries = panels.flat_map(|panel| panel["targets"].as_array().unwrap());
    queries.map(|query| query["expr"].as_str().unwrap().to_owned()).collect()
}

/// What the manual says of metrics.
fn manual() -> &'static str {
    let text = include_str!("../../../../docs/operating.md");
    text.split("\n## ").find(|section| section.starts_with("Metrics\n")).unwrap()
}

/// When the manual would have an alarm.
fn alarms() -> Vec<String> {
    let rows = manual().lines().filter_map(|line| line.strip_suffix("` |")?.rsplit_once("| `"));
    rows.map(|(_, query)| query.replace("\\|", "|")).collect()
}

#[test]
fn the_dashboard_and_the_manual_ask_for_what_there_is() {
    let (queries, alarms) = (queries(), alarms());
    let known: BTreeSet<_> = Metrics::names().collect();
    let mut shown = BTreeSet::new();
    for query in &queries {
        let names: BTreeSet<_> = named(query).into_iter().map(family_of).collect();
        assert!(!names.is_empty() && names.is_subset(&known), "{query}: {names:?}");
        shown.extend(names);
    }
    assert!(shown.len() > known.len() / 2, "{shown:?}");
    // How things are, and what became of sandboxes, is what it is looked at for.
    let ladder = ["ash_resting_sandboxes", "ash_freezes_total", "ash_reclaimed_bytes_total"];
    let states =
        ["ash_sessions", "ash_pool_sandboxes", "ash_pressure_ratio", "ash_evictions_total"];
    let cleared = ["ash_cleared_sessions_total", "ash_cleared_bytes_total"];
    let gates = ["running", "waiting", "limit", "short"].map(|it| format!("ash_admission_{it}"));
    let gates = gates.iter().map(String::as_str);
    let wanted = ladder.into_iter().chain(states).chain(cleared).chain(gates);
    let missing: Vec<_> = wanted.filter(|it| !shown.contains(*it)).collect();
    assert!(missing.is_empty(), "{missing:?}");
    assert!(alarms.len() > 3, "{alarms:?}");
    for alarm in &alarms {
        let names: BTreeSet<_> = named(alarm).into_iter().map(family_of).collect();
        assert!(names.is_subset(&known), "{alarm}");
    }
}

/// Has promtool read a text: whether it likes it, and what it says. None when it is not here, which is said
/// aloud.
fn promtool(test: &str, arguments: &[&str], text: &str) -> Option<(bool, String)> {
    let mut promtool = Command::new("promtool");
    promtool.args(arguments).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let Ok(mut child) = promtool.spawn() else {
        println!("SKIP {test}: promtool is not installed");
        return None;
    };
    child.stdin.take().unwrap().write_all(text.as_bytes()).unwrap();
    let output = child.wait_with_output().unwrap();
    let said = [output.stdout, output.stderr].concat();
    Some((output.status.success(), String::from_utf8_lossy(&said).into_owned()))
}

#[test]
fn prometheus_understands_the_dashboard_and_the_manual() {
    let test = "prometheus_understands_the_dashboard_and_the_manual";
    let asked = queries().into_iter().chain(alarms()).enumerate().map(|(number, query)| {
        json!({ "record": format!("q{number}"), "expr": query.replace("$__rate_interval", "5m") })
    });
    // What is JSON is YAML as well.
    let rules = json!({ "groups": [{ "name": "all", "rules": asked.collect::<Vec<_>>() }] });
    let config = manual().split("```yaml\n").nth(1).unwrap().split("```").next().unwrap();
    for (arguments, text) in [
        (&["check", "rules", "/dev/stdin"][..], rules.to_string()),
        (&["check", "config", "--syntax-only", "/dev/stdin"], config.to_owned()),
    ] {
        let Some((likes, said)) = promtool(test, arguments, &text) else { return };
        assert!(likes, "{said}\n{text}");
    }
}

/// All families, each with something in it.
fn full() -> Metrics {
    let metrics = Metrics::new();
    metrics.up.with_label_values(&["host-1"]).set(1);
    metrics.build.with_label_values(&["0.1.0"]).set(1);
    metrics.pressure.with_label_values(&["cpu", "some"]).set(0.5);
    metrics.resting_after.with_label_values(&["freeze"]).set(60.0);
    metrics.route("/health").answered(Verb::Get, 200, Duration::from_millis(1));
    metrics.denied.of(Denied::Key).inc();
    metrics
}

#[test]
fn promtool_has_nothing_to_say_against_it() {
    let text = full().text();
    let names: BTreeSet<_> = named(&text).into_iter().map(family_of).collect();
    let missing: Vec<_> = Metrics::names().filter(|name| !names.contains(name)).collect();
    assert_eq!(missing, [""; 0]);
    let test = "promtool_has_nothing_to_say_against_it";
    let Some(told) = promtool(test, &["check", "metrics"], &text) else { return };
    assert_eq!(told, (true, String::new()));
}

/// Nothing in it grows with sessions: it takes as long as for none.
#[test]
fn the_text_has_an_end() {
    let metrics = full();
    for word in Verb::ALL {
        metrics.route("/a").answered(*word, 200, Duration::ZERO);
    }
    let text = metrics.text();
    assert!(text.len() < 128 * 1024 && text.lines().count() < 1500, "{} bytes", text.len());
}

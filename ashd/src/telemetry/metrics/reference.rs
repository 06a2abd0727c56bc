//! The reference of all families, made from the same table as they are.

use super::families::GROUPS;
use super::table::Declared;

const INTRODUCTION: &str = "\
# Metrics

`GET /metrics` answers with what follows, in the text format of Prometheus (version 0.0.4). Who asks from
this machine needs no key; from elsewhere, and through a proxy, it takes one with the scope `read`, as in
`authorization` of Prometheus. [operating.md](operating.md) says how it is scraped, and where a
dashboard for Grafana is.

Everything is counted from the start of the daemon, and over all tenants. Labels have few values, all of
them known beforehand: what tenants, agents and sessions are called is in none of them. Histograms have
`_bucket`, `_sum` and `_count` behind their names.
";

/// The whole page.
pub(super) fn text() -> String {
    let mut page = INTRODUCTION.to_owned();
    for group in GROUPS {
        page += &format!("\n## {}\n", group.title);
        group.families.iter().for_each(|family| page += &entry(family));
    }
    page
}

fn entry(family: &Declared) -> String {
    let unit = family.traits.unit;
    let kind = match unit {
        "" => family.kind.as_str().to_owned(),
        unit => format!("{}, {unit}", family.kind.as_str()),
    };
    let labels = (0..family.traits.labels.len()).map(|place| label(family, place));
    let facts: Vec<_> = std::iter::once(kind).chain(labels).collect();
    format!("\n- **`{}`** ({})\n  {}\n", family.name, facts.join("; "), family.help())
}

/// A label, with its values where they are known.
fn label(family: &Declared, place: usize) -> String {
    let name = family.traits.labels[place];
    let mut values: Vec<String> = vec![];
    for row in (family.rows)() {
        let value = format!("`{}`", row[place]);
        if !values.contains(&value) {
            values.push(value);
        }
    }
    match values.as_slice() {
        [] => format!("`{name}`"),
        values => format!("`{name}`: {}", values.join(", ")),
    }
}

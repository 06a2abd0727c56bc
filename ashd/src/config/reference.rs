//! The configuration reference, made from the same table as the configuration.

use super::keys::SECTIONS;
use super::table::Key;

const INTRODUCTION: &str = "\
# Configuration

`ashd` reads `/etc/ash/ashd.toml` (or the file named by `--config` or `ASH_CONFIG`), then every
`*.toml` file of the directory of that name with `.d` behind it, in the order of their names, then
the environment. What comes later wins. Everything has a default: without any file `ashd` serves
the loopback interface. Unknown keys are errors, and all errors are reported at once.

Sizes are written like `512MiB` or `2GiB`, times like `500ms`, `10s`, `5min`, `12h` or `30d`. In
environment variables lists are separated by commas, if nothing else is said; empty variables count
as not set. Keys marked *reload* are taken over by `systemctl reload ashd`; the others need a restart.
";

/// The whole page.
pub(super) fn text() -> String {
    let mut page = INTRODUCTION.to_owned();
    for section in SECTIONS {
        page += &format!("\n## `[{}]`\n\n{}\n", section.name, joined(section.about));
        section.keys.iter().for_each(|key| entry(&mut page, key));
    }
    page
}

fn entry(page: &mut String, key: &Key) {
    let name = key.path.rsplit('.').next().unwrap_or(key.path);
    let (name, facts) = match key.traits.env {
        [variable] if key.traits.env_only => (*variable, vec![Some("only a variable".into())]),
        _ => (name, vec![Some(default(key)), variables(key)]),
    };
    let facts: Vec<_> = facts.into_iter().chain([reload(key)]).flatten().collect();
    *page += &format!("\n- **`{name}`** ({})\n  {}\n", facts.join("; "), joined(key.about));
}

fn default(key: &Key) -> String {
    match (key.default, key.traits.derived) {
        ("", "") => "not set".into(),
        ("", derived) => format!("default: {derived}"),
        (default, _) => format!("default `{default}`"),
    }
}

fn variables(key: &Key) -> Option<String> {
    let names: Vec<_> = key.traits.env.iter().map(|name| format!("`{name}`")).collect();
    (!names.is_empty()).then(|| names.join(" or "))
}

fn reload(key: &Key) -> Option<String> {
    (key.traits.live && !key.traits.env_only).then(|| "*reload*".into())
}

/// Comment lines as one paragraph.
fn joined(comment: &str) -> String {
    comment.lines().map(str::trim).collect::<Vec<_>>().join(" ")
}

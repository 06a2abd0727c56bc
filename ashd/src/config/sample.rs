//! The configuration file that packages install, made from the same table as the configuration.

use super::keys::SECTIONS;
use super::table::Key;

const INTRODUCTION: &str = "\
# Configuration of ashd. Everything here is a comment and shows the default; ashd.toml(5) says more.
# Settings of your own are best put into a file beside this one, like ashd.toml.d/local.toml: this
# one then stays as the package brings it, and an upgrade has nothing to ask.
#
# `systemctl reload ashd` takes over what is marked \"reload\", `systemctl restart ashd` everything.
";

/// The whole file.
pub(super) fn text() -> String {
    let mut file = INTRODUCTION.to_owned();
    for section in SECTIONS {
        file += &format!("\n{}[{}]\n", comment(section.about), section.name);
        section
            .keys
            .iter()
            .filter(|key| !key.traits.env_only)
            .for_each(|key| entry(&mut file, key));
    }
    file
}

fn entry(file: &mut String, key: &Key) {
    let name = key.path.rsplit('.').next().unwrap_or(key.path);
    let about = comment(key.about);
    let reload = if key.traits.live { "# (reload)\n" } else { "" };
    let (default, value) = match (key.default, key.traits.derived) {
        ("", "") => ("# Not set.\n".to_owned(), String::new()),
        ("", derived) => (format!("# Default: {derived}.\n"), String::new()),
        (default, _) => (String::new(), format!(" {}", written(default))),
    };
    *file += &format!("\n{about}{default}{reload}#{name} ={value}\n");
}

/// As it stands in a file: numbers and truths bare, everything else in quotes.
fn written(default: &str) -> String {
    let bare = default.parse::<f64>().is_ok() || default.parse::<bool>().is_ok();
    if bare { default.to_owned() } else { format!("{default:?}") }
}

fn comment(text: &str) -> String {
    text.lines().map(|line| format!("#{line}\n")).collect()
}

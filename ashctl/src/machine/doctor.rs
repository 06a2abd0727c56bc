//! `ashctl doctor`: readings of the machine, each judged by itself.

mod finding;
mod readings;

mod gather;
mod judge;

use serde_json::json;

use self::finding::{Finding, Grade};
use super::Page;
use crate::cli::Places;
use crate::failure::Failure;

/// Which key of the configuration gives the model API key, if one does: a credential has no effect then.
pub(super) async fn configured_key() -> Option<&'static str> {
    let is_in_environment = gather::has_key_in_environment();
    judge::configured_key(&gather::config().await, is_in_environment)
}

/// Looks at the machine, says what was found, returns 1 if something needed is missing.
pub(super) async fn run(
    page: &mut Page,
    places: &Places,
    bus: Option<&str>,
) -> Result<u8, Failure> {
    let readings = gather::all(places, bus).await;
    let findings: Vec<Finding> = judge::all(&readings);
    let is_fit = findings.iter().all(|finding| finding.grade != Grade::Missing);
    if page.as_json {
        let all: Vec<_> = findings.iter().map(Finding::document).collect();
        page.out.line(&json!({"ok": is_fit, "findings": all}).to_string())?;
    } else {
        for finding in &findings {
            page.out.write(&finding.text())?;
        }
    }
    Ok(u8::from(!is_fit))
}

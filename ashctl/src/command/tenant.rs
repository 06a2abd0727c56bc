//! `ashctl tenant`.

use serde_json::json;

use super::Context;
use crate::cli::Tenant;
use crate::failure::Failure;

pub(super) async fn run(context: &mut Context, command: Tenant) -> Result<(), Failure> {
    let Tenant::Delete { name } = command;
    let manager = context.bus.manager.inner();
    let (sessions, agents, keys): (u64, u64, u64) =
        context.person.call(manager, "DeleteTenant", &(&*name)).await?;
    let document = json!({"deleted": name, "sessions": sessions, "agents": agents, "keys": keys});
    if context.document(&document)? {
        return Ok(());
    }
    context.out.line(&format!(
        "Deleted tenant {name}: {sessions} sessions, {agents} agents, {keys} API keys"
    ))
}

//! `ashctl agent`.

use ash_dbus::value::AgentInfo;
use serde_json::{Value, json};

use super::{Context, row};
use crate::cli::Agent;
use crate::failure::Failure;
use crate::json;

pub(super) async fn run(context: &mut Context, command: Agent) -> Result<(), Failure> {
    match command {
        Agent::List => list(context).await,
        Agent::Info { name } => {
            let (_, info) = context.bus.agent(&name).await?;
            show(context, &info)
        }
        Agent::Delete { name } => {
            let (agent, _) = context.bus.agent(&name).await?;
            agent.delete().await?;
            if context.document(&json!({"deleted": name}))? {
                return Ok(());
            }
            context.out.line(&format!("Deleted agent {name}"))
        }
    }
}

async fn list(context: &mut Context) -> Result<(), Failure> {
    let agents = context.bus.manager.list_agents().await?;
    if context.document(&agents.iter().map(json::agent).collect::<Value>())? {
        return Ok(());
    }
    let mut rows = vec![["NAME", "VERSION", "UPDATED"].map(String::from).to_vec()];
    rows.extend(
        agents
            .into_iter()
            .map(|agent| vec![agent.name, agent.version.to_string(), agent.updated_at]),
    );
    context.out.table(&rows)
}

fn show(context: &mut Context, info: &AgentInfo) -> Result<(), Failure> {
    if context.document(&json::agent(info))? {
        return Ok(());
    }
    context.out.table(&[
        row("name", &info.name),
        row("version", info.version.to_string()),
        row("id", &info.id),
        row("path", &info.path),
        row("environment", info.env_names.join(" ")),
        row("created", &info.created_at),
        row("updated", &info.updated_at),
    ])
}

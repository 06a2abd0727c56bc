//! `ashctl agent`.

use std::collections::BTreeMap;
use std::path::Path;

use ash_dbus::value::AgentInfo;
use serde_json::{Map, Value, json};

use super::{Context, row};
use crate::cli::Agent;
use crate::failure::Failure;
use crate::folder;
use crate::json;

pub(super) async fn run(context: &mut Context, command: Agent) -> Result<(), Failure> {
    match command {
        Agent::List => list(context).await,
        Agent::Info { name } => {
            let (_, info) = context.bus.agent(&name).await?;
            show(context, &info)
        }
        Agent::Config { name, changes } => {
            let (agent, _) = context.bus.agent(&name).await?;
            let config = match changes.is_empty() {
                true => agent.get_config().await?,
                false => {
                    let changes: Value = changes.into_iter().collect::<Map<_, _>>().into();
                    let changes = changes.to_string();
                    context.person.call(agent.inner(), "Configure", &changes).await?
                }
            };
            show_config(context, &json::parsed(&config))
        }
        Agent::Env { name, env, file, clear } => {
            let is_shown = env.is_empty() && file.is_none() && !clear;
            let new = if is_shown { None } else { Some(variables(env, file.as_deref())?) };
            environment(context, &name, new).await
        }
        Agent::Delete { name } => {
            let (agent, _) = context.bus.agent(&name).await?;
            context.person.call::<_, ()>(agent.inner(), "Delete", &()).await?;
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

/// Those of the command line win over those of the file.
fn variables(
    env: Vec<(String, String)>,
    file: Option<&Path>,
) -> Result<BTreeMap<String, String>, Failure> {
    let read = file.map(folder::variables).transpose();
    let read = read.map_err(|error| Failure::Refused(error.to_string()))?;
    Ok(read.into_iter().flatten().chain(env).collect())
}

/// Gives an agent another environment, if there is one, and shows the names in it.
async fn environment(
    context: &mut Context,
    name: &str,
    new: Option<BTreeMap<String, String>>,
) -> Result<(), Failure> {
    let (agent, info) = context.bus.agent(name).await?;
    let names = match new {
        None => info.env_names,
        Some(new) => {
            context.person.call::<_, ()>(agent.inner(), "SetEnv", &new).await?;
            new.into_keys().collect()
        }
    };
    if context.document(&json!({"name": name, "envNames": names}))? {
        return Ok(());
    }
    names.iter().try_for_each(|name| context.out.line(name))
}

/// Shows a config; texts without quotes, as they can be given again.
fn show_config(context: &mut Context, config: &Value) -> Result<(), Failure> {
    if context.document(config)? {
        return Ok(());
    }
    let text = |value: &Value| value.as_str().map_or_else(|| value.to_string(), str::to_owned);
    let members = config.as_object().into_iter().flatten();
    let rows: Vec<_> = members.map(|(key, value)| row(key, text(value))).collect();
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

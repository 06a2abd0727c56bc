//! `ashctl key`.

use clap::ValueEnum;
use serde_json::{Value, json};

use super::Context;
use crate::cli::{Key, Scope};
use crate::failure::Failure;
use crate::json;

pub(super) async fn run(context: &mut Context, command: Key) -> Result<(), Failure> {
    match command {
        Key::Create { name, scope } => create(context, &name, scope).await,
        Key::List => list(context).await,
        Key::Revoke { id } => {
            context.bus.manager.revoke_key(&id).await?;
            if context.document(&json!({"revoked": id}))? {
                return Ok(());
            }
            context.out.line(&format!("Revoked key {id}"))
        }
    }
}

async fn create(context: &mut Context, name: &str, scope: Scope) -> Result<(), Failure> {
    let scope = scope.to_possible_value().map(|word| word.get_name().to_owned());
    let scope = scope.unwrap_or_default();
    let (id, key) = context.bus.manager.create_key(name, &scope).await?;
    if context.document(&json!({"id": id, "name": name, "scope": scope, "key": key}))? {
        return Ok(());
    }
    context.out.line(&key)
}

async fn list(context: &mut Context) -> Result<(), Failure> {
    let keys = context.bus.manager.list_keys().await?;
    if context.document(&keys.iter().map(json::key).collect::<Value>())? {
        return Ok(());
    }
    let mut rows = vec![["ID", "NAME", "SCOPE", "CREATED"].map(String::from).to_vec()];
    rows.extend(keys.into_iter().map(|key| vec![key.id, key.name, key.scope, key.created_at]));
    context.out.table(&rows)
}

//! `ashctl key`.

use ash_dbus::value::KeyInfo;
use clap::ValueEnum;
use serde_json::{Value, json};

use super::Context;
use crate::cli::{Key, Scope};
use crate::failure::Failure;
use crate::id::{Kind, is_beginning, only};
use crate::json;

pub(super) async fn run(context: &mut Context, command: Key) -> Result<(), Failure> {
    match command {
        Key::Create { name, scope } => create(context, &name, scope).await,
        Key::List => list(context).await,
        Key::Revoke { id } => {
            let id = whole(context, id).await?;
            let manager = context.bus.manager.inner();
            context.person.call::<_, ()>(manager, "RevokeKey", &(&*id)).await?;
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
    let (id, key) = context
        .person
        .call::<_, (String, String)>(context.bus.manager.inner(), "CreateKey", &(name, &*scope))
        .await?;
    if context.document(&json!({"id": id, "name": name, "scope": scope, "key": key}))? {
        return Ok(());
    }
    context.out.line(&key)
}

/// The id of a key, or the only one that begins so.
async fn whole(context: &Context, id: String) -> Result<String, Failure> {
    if !is_beginning(&id) {
        return Ok(id);
    }
    only(&id, all(context).await?.into_iter().map(|key| key.id), Kind::Key)
}

async fn all(context: &Context) -> Result<Vec<KeyInfo>, Failure> {
    context.person.call(context.bus.manager.inner(), "ListKeys", &()).await
}

async fn list(context: &mut Context) -> Result<(), Failure> {
    let keys = all(context).await?;
    if context.document(&keys.iter().map(json::key).collect::<Value>())? {
        return Ok(());
    }
    let mut rows = vec![["ID", "NAME", "SCOPE", "CREATED"].map(String::from).to_vec()];
    rows.extend(keys.into_iter().map(|key| vec![key.id, key.name, key.scope, key.created_at]));
    context.out.table(&rows)
}

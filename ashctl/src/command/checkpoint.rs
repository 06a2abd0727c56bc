//! `ashctl session checkpoint`.

use ash_dbus::SessionProxy;
use serde_json::{Value, json};

use super::Context;
use super::top::bytes;
use crate::cli::Checkpoint;
use crate::failure::Failure;
use crate::id::{Kind, is_beginning, only};
use crate::json;

pub(super) async fn run(context: &mut Context, command: Checkpoint) -> Result<(), Failure> {
    match command {
        Checkpoint::Create { id, name } => {
            let (session, _) = context.bus.session(&id.id).await?;
            let made = session.save(&name.unwrap_or_default()).await?;
            if context.document(&json::checkpoint(&made))? {
                return Ok(());
            }
            context.out.line(&made.id)
        }
        Checkpoint::List(id) => list(context, &id.id).await,
        Checkpoint::Delete { id, checkpoint } => {
            let (session, _) = context.bus.session(&id.id).await?;
            let checkpoint = whole(&session, checkpoint).await?;
            session.remove_checkpoint(&checkpoint).await?;
            if context.document(&json!({ "ok": true }))? {
                return Ok(());
            }
            context.out.line(&format!("Removed the checkpoint {checkpoint}"))
        }
    }
}

/// A checkpoint of a session by its id, or by how no other id begins. What can only be a name, or is one,
/// comes back as it is.
///
/// # Errors
/// When none is called or begins so, or more than one begins so.
pub(super) async fn whole(
    session: &SessionProxy<'_>,
    checkpoint: String,
) -> Result<String, Failure> {
    if !is_beginning(&checkpoint) {
        return Ok(checkpoint);
    }
    let points = session.checkpoints().await?;
    if points.iter().any(|point| point.name == checkpoint) {
        return Ok(checkpoint);
    }
    only(&checkpoint, points.into_iter().map(|point| point.id), Kind::Checkpoint)
}

async fn list(context: &mut Context, id: &str) -> Result<(), Failure> {
    let (session, _) = context.bus.session(id).await?;
    let points = session.checkpoints().await?;
    if context.document(&points.iter().map(json::checkpoint).collect::<Value>())? {
        return Ok(());
    }
    let head = ["ID", "NAME", "AT EVENT", "FILES", "SIZE", "WRITTEN", "MADE", ""];
    let mut rows = vec![head.map(String::from).to_vec()];
    rows.extend(points.into_iter().map(|point| {
        let at = match point.running {
            true => format!("{} (in a turn)", point.sequence),
            false => point.sequence.to_string(),
        };
        let (size, written) = (bytes(point.bytes), bytes(point.written));
        let damage = match point.damage.as_str() {
            "" => String::new(),
            damage => format!("damaged: {damage}"),
        };
        let files = point.files.to_string();
        vec![point.id, point.name, at, files, size, written, point.created_at, damage]
    }));
    context.out.table(&rows)
}

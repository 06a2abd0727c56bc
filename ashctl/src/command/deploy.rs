//! `ashctl deploy`.

use std::collections::HashMap;
use std::fs::File;

use ash_dbus::value::DeployOptions;
use rustix::pipe::{PipeFlags, pipe_with};
use serde_json::{Value, json};
use zbus::zvariant::{Fd, OwnedObjectPath};

use super::{Context, config_file};
use crate::cli::Deploy;
use crate::failure::Failure;
use crate::folder::{Folder, FolderError};

/// What is to be deployed. Everything but the folder's files is read, once: it may come from pipes.
pub(super) struct Deployment {
    folder: Folder,
    name: String,
    options: DeployOptions,
}

impl Deployment {
    /// Reads what the command names.
    ///
    /// # Errors
    /// What is wrong with it, before the daemon is asked for anything.
    pub(super) fn read(options: &Deploy) -> Result<Self, Failure> {
        let folder = Folder::open(&options.path).map_err(bad)?;
        let name = name(&folder, options)?;
        let config = options.config.as_deref().map(config_file::read).transpose()?;
        let config = config.map(|members| Value::Object(members).to_string());
        let options =
            DeployOptions { env: env(&folder, options)?, config, ..DeployOptions::default() };
        Ok(Deployment { folder, name, options })
    }
}

pub(super) async fn run(context: &mut Context, deployment: Deployment) -> Result<(), Failure> {
    let name = deployment.name.clone();
    let variables = deployment.options.env.iter().flat_map(HashMap::keys);
    let mut variables: Vec<String> = variables.cloned().collect();
    variables.sort_unstable();
    let (files, version) = upload(context, deployment).await?;
    if context.document(&json!({"name": name, "version": version, "files": files}))? {
        return Ok(());
    }
    context.out.line(&format!("Deployed agent {name}, version {version} ({files} files)"))?;
    match variables.is_empty() {
        true => Ok(()),
        false => context.out.line(&format!("  environment: {}", variables.join(" "))),
    }
}

/// Writes the folder into a pipe while the daemon reads it; returns files and version.
async fn upload(context: &Context, deployment: Deployment) -> Result<(u64, u32), Failure> {
    let Deployment { folder, name, options } = deployment;
    let no_pipe = |error| Failure::Failed(format!("no pipe can be made: {error}"));
    let (reader, writer) = pipe_with(PipeFlags::CLOEXEC).map_err(no_pipe)?;
    let sending = tokio::task::spawn_blocking(move || folder.send(File::from(writer)));
    let manager = context.bus.manager.inner();
    let deployed: Result<(OwnedObjectPath, u32), _> =
        context.person.call(manager, "Deploy", &(name, Fd::from(&reader), options)).await;
    if let Err(Failure::Interrupted) = deployed {
        // As long as we are on the bus, the daemon may still read.
        return Err(Failure::Interrupted);
    }
    // The daemon has its own copy: when it stops reading, the sender must notice.
    drop(reader);
    let sent = sending.await.map_err(|error| Failure::Failed(error.to_string()))?;
    match (sent, deployed) {
        (Ok(files), Ok((_, version))) => Ok((files, version)),
        // The daemon stopped reading: it says why.
        (Err(FolderError::Send(_)) | Ok(_), Err(refused)) => Err(refused),
        (Err(error), _) => Err(bad(error)),
    }
}

fn name(folder: &Folder, options: &Deploy) -> Result<String, Failure> {
    let unusable =
        || Failure::Usage("no name can be made from the folder's; give one with -n".into());
    options.name.clone().or_else(|| folder.name()).ok_or_else(unusable)
}

fn env(folder: &Folder, options: &Deploy) -> Result<Option<HashMap<String, String>>, Failure> {
    let env = folder.env().map_err(bad)?;
    match options.env.is_empty() {
        true => Ok(env),
        false => {
            let mut env = env.unwrap_or_default();
            env.extend(options.env.iter().cloned());
            Ok(Some(env))
        }
    }
}

fn bad(error: FolderError) -> Failure {
    Failure::Refused(error.to_string())
}

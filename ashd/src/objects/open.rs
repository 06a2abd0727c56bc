//! Which store, and how to reach it.

use std::path::Path as FilePath;
use std::sync::Arc;
use std::time::Duration;

use object_store::aws::{AmazonS3Builder, AmazonS3ConfigKey};
use object_store::azure::MicrosoftAzureBuilder;
use object_store::gcp::{GoogleCloudStorage, GoogleCloudStorageBuilder, GoogleConfigKey};
use object_store::local::LocalFileSystem;
use object_store::path::Path;
use object_store::{Error, ObjectStore, ObjectStoreScheme, RetryConfig};

use super::directory::Directory;
use super::{Objects, ObjectsError, SealKey};
use crate::domain::Node;

/// What the configuration says of the object store.
#[derive(Clone)]
pub struct Settings {
    /// `s3://bucket/prefix`, `gs://…`, `az://…`, or `file:///directory`. Whatever else is needed to
    /// reach it is in the variables that its own tools read (`AWS_…`, `GOOGLE_…`, `AZURE_…`).
    pub url: String,
    /// The region of an S3 bucket, unless the environment names one.
    pub region: String,
    /// What everything is sealed with.
    pub key: SealKey,
}

/// Whoever uses the store tries again by itself, later: it knows better what is still needed.
fn retries() -> RetryConfig {
    let retry_timeout = Duration::from_secs(60);
    RetryConfig { max_retries: 3, retry_timeout, ..RetryConfig::default() }
}

impl Objects {
    /// Gets ready to use a store. Nothing is asked of it yet.
    ///
    /// # Errors
    /// [`ObjectsError::Unusable`] when the URL means nothing, or something is missing that is needed
    /// to reach it.
    pub fn open(settings: &Settings, node: Node) -> Result<Objects, ObjectsError> {
        let unusable = |error: String| ObjectsError::Unusable(error);
        let url = url::Url::parse(&settings.url).map_err(|error| unusable(error.to_string()))?;
        let other = "the URL must begin with s3://, gs://, az:// or file://";
        if matches!(url.scheme(), "s3" | "gs" | "az") && url.host().is_none() {
            let text =
                format!("the URL names no bucket; it is like {}://bucket/prefix", url.scheme());
            return Err(unusable(text));
        }
        let scheme = ObjectStoreScheme::parse(&url);
        let (scheme, prefix) = scheme.map_err(|_| unusable(other.to_owned()))?;
        let mut dir = Directory::default();
        let (store, prefix): (Arc<dyn ObjectStore>, Path) = match scheme {
            ObjectStoreScheme::AmazonS3 => (Arc::new(s3(settings)?), prefix),
            ObjectStoreScheme::GoogleCloudStorage => {
                (Arc::new(google(GoogleCloudStorageBuilder::from_env(), &settings.url)?), prefix)
            }
            ObjectStoreScheme::MicrosoftAzure => {
                let builder = MicrosoftAzureBuilder::from_env().with_url(&settings.url);
                (Arc::new(built(builder.with_retry(retries()).build())?), prefix)
            }
            ObjectStoreScheme::Local => {
                let path = url.to_file_path().map_err(|()| unusable("no such path".to_owned()))?;
                dir = Directory::at(&path);
                (Arc::new(directory(&path)?), Path::default())
            }
            _ => return Err(unusable(other.to_owned())),
        };
        Ok(Objects { store, prefix, directory: dir, key: settings.key.clone(), node })
    }
}

fn s3(settings: &Settings) -> Result<impl ObjectStore + use<>, ObjectsError> {
    let mut builder = AmazonS3Builder::from_env();
    if builder.get_config_value(&AmazonS3ConfigKey::Region).is_none() {
        builder = builder.with_region(&settings.region);
    }
    built(builder.with_url(&settings.url).with_retry(retries()).build())
}

/// A bucket of Google's, with what its variables have said. What can never work is refused here: later
/// it would look like a store that is away.
pub(super) fn google(
    mut builder: GoogleCloudStorageBuilder,
    url: &str,
) -> Result<GoogleCloudStorage, ObjectsError> {
    let unusable = |text: &str| Err(ObjectsError::Unusable(text.to_owned()));
    if let Some(base) = builder.get_config_value(&GoogleConfigKey::BaseUrl) {
        if !base.starts_with("https://") && !base.starts_with("http://") {
            return unusable("GOOGLE_BASE_URL must begin with https:// or http://");
        }
        // Names of buckets are put behind it with a slash.
        builder = builder.with_base_url(base.trim_end_matches('/'));
    }
    let skips = builder.get_config_value(&GoogleConfigKey::SkipSignature).unwrap_or_default();
    if matches!(skips.to_ascii_lowercase().as_str(), "1" | "true" | "on" | "yes" | "y") {
        return unusable("GOOGLE_SKIP_SIGNATURE is for what is only read; unset it");
    }
    let known = [
        GoogleConfigKey::ServiceAccount,
        GoogleConfigKey::ServiceAccountKey,
        GoogleConfigKey::ApplicationCredentials,
    ];
    let said = known.into_iter().filter(|key| builder.get_config_value(key).is_some());
    let said: Vec<_> = said.map(|key| key.as_ref().to_uppercase()).collect();
    let made = builder.with_url(url).with_retry(retries()).build();
    made.map_err(|error| match error {
        // Of all that can be wrong with a store of Google's, only credentials are left.
        Error::Generic { store: "GCS", source } if said.is_empty() => {
            let text = "look at .config/gcloud/application_default_credentials.json in the home \
                        directory, or set GOOGLE_APPLICATION_CREDENTIALS";
            ObjectsError::Unusable(format!("{source}; {text}"))
        }
        Error::Generic { store: "GCS", source } => {
            ObjectsError::Unusable(format!("{source}; look at {}", said.join(" and ")))
        }
        error => ObjectsError::Unusable(error.to_string()),
    })
}

/// A directory that is not there is more likely not mounted than meant to be made.
fn directory(dir: &FilePath) -> Result<LocalFileSystem, ObjectsError> {
    if !dir.is_dir() {
        let text = format!("{} is no directory; make it, or mount it", dir.display());
        return Err(ObjectsError::Unusable(text));
    }
    built(LocalFileSystem::new_with_prefix(dir)).map(|store| store.with_automatic_cleanup(true))
}

fn built<T>(result: Result<T, Error>) -> Result<T, ObjectsError> {
    result.map_err(|error| ObjectsError::Unusable(error.to_string()))
}

//! An object store in a directory. Others are in the journeys.

use std::fs::File;
use std::io::{Seek, Write};
use std::path::Path;

use futures_util::stream;
use object_store::Error;
use object_store::gcp::GoogleCloudStorageBuilder;
use uuid::Uuid;

use super::open::google;
use super::transfer::removed;
use super::*;
use crate::domain::{SessionId, Tenant};

/// An account of which no server wants to see anything.
const OPEN: &str = r#"{"client_email": "", "private_key_id": "", "private_key": "",
    "disable_oauth": true}"#;

/// One in this directory, with a key of this digit.
pub(crate) fn open(dir: &Path, digit: &str) -> Objects {
    open_as(dir, digit, Node::fresh())
}

/// The same, for the machine that is this node.
pub(crate) fn open_as(dir: &Path, digit: &str, node: Node) -> Objects {
    let key = SealKey::from_hex(&digit.repeat(64)).unwrap();
    let url = format!("file://{}", dir.display());
    Objects::open(&Settings { url, region: String::new(), key }, node).unwrap()
}

#[tokio::test]
async fn what_is_put_is_got_and_sealed_there() {
    let dir = tempfile::tempdir().unwrap();
    let (objects, tenant) = (open(dir.path(), "a"), Tenant::default());
    let place = Place::Pack(&tenant, Uuid::nil());
    let missing = objects.get(&tenant, &place, Limit(10)).await;
    assert!(matches!(missing, Err(ObjectsError::Missing(_))), "{missing:?}");
    objects.put(&tenant, &place, b"a secret").await.unwrap();
    assert_eq!(objects.get(&tenant, &place, Limit(10)).await.unwrap(), b"a secret");
    let there = std::fs::read(dir.path().join(place.to_string())).unwrap();
    assert!(!there.windows(6).any(|part| part == b"secret"));
    let larger = objects.get(&tenant, &place, Limit(3)).await;
    assert!(matches!(larger, Err(ObjectsError::TooLarge(_))), "{larger:?}");
    let nowhere = Place::Pack(&tenant, Uuid::max());
    assert!(!objects.opens(&tenant, &nowhere, Limit(10)).await.unwrap());
    let other = open(dir.path(), "b").get(&tenant, &place, Limit(10)).await;
    assert_eq!(
        other.unwrap_err().to_string(),
        format!(
            "{place} in the object store is damaged, or was sealed with another key; look at \
             snapshots.key"
        )
    );
    objects.remove(&place).await.unwrap();
    objects.remove(&place).await.unwrap();
    assert!(objects.list(&Place::Packs(&tenant)).await.unwrap().is_empty());
}

#[tokio::test]
async fn files_travel_in_parts() {
    let dir = tempfile::tempdir().unwrap();
    let (objects, tenant) = (open(dir.path(), "a"), Tenant::default());
    for length in [0, 1000, (7 << 20) + 5] {
        let pack = Uuid::new_v4();
        let place = Place::Pack(&tenant, pack);
        let plain: Vec<u8> = (0..length).map(|at: u32| (at >> 7) as u8).collect();
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(&plain).unwrap();
        file.rewind().unwrap();
        objects.send(&tenant, &place, file).await.unwrap();
        let listed = objects.list(&Place::Packs(&tenant)).await.unwrap();
        assert!(listed.iter().any(|object| object.name == pack.to_string()));
        let back = dir.path().join("back");
        let into = File::create(&back).unwrap();
        objects.fetch(&tenant, &place, Limit(16 << 20), into).await.unwrap();
        assert!(std::fs::read(&back).unwrap() == plain, "{length} bytes");
        for (digit, opens) in [("a", true), ("b", false)] {
            let other = open(dir.path(), digit);
            assert_eq!(other.opens(&tenant, &place, Limit(16 << 20)).await.unwrap(), opens);
        }
        let sealed = dir.path().join(place.to_string());
        let mut bytes = std::fs::read(&sealed).unwrap();
        let middle = bytes.len() / 2;
        bytes[middle] ^= 1;
        std::fs::write(&sealed, bytes).unwrap();
        let into = File::create(&back).unwrap();
        let fetched = objects.fetch(&tenant, &place, Limit(16 << 20), into).await;
        assert!(matches!(fetched, Err(ObjectsError::Sealed(_))), "{fetched:?}");
    }
}

#[tokio::test]
async fn of_many_who_want_a_session_one_has_it() {
    let dir = tempfile::tempdir().unwrap();
    let (tenant, session) = (Tenant::default(), SessionId::random());
    let all: Vec<Objects> = (0..8).map(|_| open(dir.path(), "a")).collect();
    assert_eq!(all[0].generation(&tenant, session).await.unwrap(), None);
    for generation in [1, 2, 300] {
        let claims = all.iter().map(|one| one.claim(&tenant, session, generation));
        let claims = futures_util::future::try_join_all(claims).await.unwrap();
        let winners = claims.iter().filter(|claim| **claim == Claimed::Ours).count();
        assert_eq!(winners, 1, "{claims:?}");
        let winner = claims.iter().position(|claim| *claim == Claimed::Ours).unwrap();
        let again = all[winner].claim(&tenant, session, generation).await.unwrap();
        assert_eq!(again, Claimed::Ours, "who asks again has it still");
        assert_eq!(all[0].generation(&tenant, session).await.unwrap(), Some(generation));
    }
    all[0].remove_all(&Place::Session(&tenant, session)).await.unwrap();
    assert_eq!(all[0].generation(&tenant, session).await.unwrap(), None);
    assert!(all[0].groups(&Place::Sessions(&tenant)).await.unwrap().is_empty());
}

/// Two remove the same at once: whoever comes second leaves nothing that is still there.
#[tokio::test]
async fn what_is_gone_already_ends_no_removal() {
    let gone = || Err(Error::NotFound { path: "it".to_owned(), source: "it is gone".into() });
    let refused = || Err(Error::Generic { store: "test", source: "it stays".into() });
    let all = [gone(), Ok("another"), gone()];
    removed(stream::iter(all)).await.unwrap();
    let all = [gone(), Ok("another"), refused()];
    let error = removed(stream::iter(all)).await.unwrap_err();
    assert!(error.to_string().contains("it stays"), "{error}");
}

/// One that was restored from a backup is another one, and knows whose it goes on with.
#[tokio::test]
async fn who_was_restored_inherits() {
    let dir = tempfile::tempdir().unwrap();
    let (tenant, session, before) = (Tenant::default(), SessionId::random(), Node::fresh());
    let of = |node: Node| open_as(dir.path(), "a", node);
    let (old, stranger) = (of(before.clone()), open(dir.path(), "a"));
    let restored = of(before.successor().successor());
    assert_eq!(old.claim(&tenant, session, 1).await.unwrap(), Claimed::Ours);
    assert_eq!(restored.claim(&tenant, session, 1).await.unwrap(), Claimed::Inherited);
    assert_eq!(stranger.owner(&tenant, session, 1).await.unwrap(), Claimed::Taken);
    assert_eq!(restored.claim(&tenant, session, 2).await.unwrap(), Claimed::Ours);
    assert_eq!(old.claim(&tenant, session, 2).await.unwrap(), Claimed::Taken);
}

/// Else one who has looked before would bring it back.
#[tokio::test]
async fn what_is_purged_is_nobodys() {
    let dir = tempfile::tempdir().unwrap();
    let (tenant, session, node) = (Tenant::default(), SessionId::random(), Node::fresh());
    let of = |node: Node| open_as(dir.path(), "a", node);
    let (here, stranger) = (of(node.clone()), open(dir.path(), "a"));
    assert_eq!(here.claim(&tenant, session, 1).await.unwrap(), Claimed::Ours);
    assert!(!stranger.bury(&tenant, session, 1).await.unwrap(), "somebody has it");
    for _ in 0..2 {
        assert!(here.bury(&tenant, session, 2).await.unwrap());
    }
    let theirs = stranger.claim(&tenant, session, 2).await.unwrap();
    assert_eq!(theirs, Claimed::Purged { here: false });
    for one in [&here, &of(node.successor())] {
        let ours = one.claim(&tenant, session, 2).await.unwrap();
        assert_eq!(ours, Claimed::Purged { here: true });
    }
    here.forget_owners(&tenant, session, 2).await.unwrap();
    let left = here.list(&Place::Owners(&tenant, session)).await.unwrap();
    assert_eq!(left.iter().map(|owner| &*owner.name).collect::<Vec<_>>(), ["00000002"]);
    assert_eq!(stranger.generation(&tenant, session).await.unwrap(), Some(2));
}

#[test]
fn what_cannot_be_a_store_is_told() {
    let key = SealKey::from_hex(&"a".repeat(64)).unwrap();
    for (url, text) in [
        ("bucket", "relative URL without a base"),
        ("ftp://host/x", "the URL must begin with s3://, gs://, az:// or file://"),
        ("gs:///prefix", "the URL names no bucket; it is like gs://bucket/prefix"),
        ("file:///nowhere/at/all", "/nowhere/at/all is no directory; make it, or mount it"),
    ] {
        let settings = Settings { url: url.to_owned(), region: String::new(), key: key.clone() };
        let error = Objects::open(&settings, Node::fresh()).err().unwrap().to_string();
        assert!(error.contains(text), "{error}");
    }
}

/// What variables say of a bucket of Google's.
fn google_with(said: &[(&str, &str)]) -> Result<String, ObjectsError> {
    let begin = GoogleCloudStorageBuilder::new();
    let builder = said.iter().fold(begin, |builder, (name, value)| {
        builder.with_config(name.to_lowercase().parse().unwrap(), *value)
    });
    google(builder, "gs://bucket/prefix").map(|store| store.to_string())
}

#[test]
fn what_cannot_be_a_bucket_of_googles_is_told() {
    let dir = tempfile::tempdir().unwrap();
    let federated = dir.path().join("federated.json");
    std::fs::write(&federated, r#"{"type": "external_account"}"#).unwrap();
    let no_key = r#"{"client_email": "a@b", "private_key_id": "1", "private_key": "none"}"#;
    for (said, texts) in [
        (vec![("GOOGLE_BASE_URL", "storage:4443")], ["begin with https:// or", "GOOGLE_BASE_URL"]),
        (vec![("GOOGLE_SKIP_SIGNATURE", "Yes")], ["only read; unset it", "GOOGLE_SKIP_SIGNATURE"]),
        (vec![("GOOGLE_SKIP_SIGNATURE", "?"), ("GOOGLE_SERVICE_ACCOUNT_KEY", OPEN)], ["\"?\"", ""]),
        (vec![("GOOGLE_SERVICE_ACCOUNT", "/no/file")], ["/no/file", "at GOOGLE_SERVICE_ACCOUNT"]),
        (
            vec![("GOOGLE_SERVICE_ACCOUNT_KEY", "{}")],
            ["missing field `private_key`", "look at GOOGLE_SERVICE_ACCOUNT_KEY"],
        ),
        (vec![("GOOGLE_SERVICE_ACCOUNT_KEY", no_key)], ["pem", "at GOOGLE_SERVICE_ACCOUNT_KEY"]),
        (
            vec![("GOOGLE_SERVICE_ACCOUNT", "/no/file"), ("GOOGLE_SERVICE_ACCOUNT_KEY", "{}")],
            ["path or", "look at GOOGLE_SERVICE_ACCOUNT and GOOGLE_SERVICE_ACCOUNT_KEY"],
        ),
        (
            vec![("GOOGLE_APPLICATION_CREDENTIALS", federated.to_str().unwrap())],
            ["external_account", "look at GOOGLE_APPLICATION_CREDENTIALS"],
        ),
    ] {
        let error = google_with(&said).unwrap_err().to_string();
        assert!(texts.iter().all(|text| error.contains(text)), "{said:?}: {error}");
        assert!(error.starts_with("the object store cannot be used: "), "{error}");
    }
    let elsewhere = [
        ("GOOGLE_BASE_URL", "http://127.0.0.1:4443/"),
        ("GOOGLE_BUCKET", "other"),
        ("GOOGLE_SERVICE_ACCOUNT_KEY", OPEN),
    ];
    assert_eq!(google_with(&elsewhere).unwrap(), "GoogleCloudStorage(bucket)");
}

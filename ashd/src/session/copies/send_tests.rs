use super::*;
use crate::domain::Node;
use crate::objects::tests::{open, open_as};
use crate::session::stage::Stage;

/// A session's files as content, and the pack that holds it.
async fn cut(shared: &Arc<Shared>, session: &Session) -> (Root, Uuid) {
    let cut = shared.cut_at_rest(session, shared.places.session(session.id)).await.unwrap();
    let vault = shared.snapshots.vault(&session.tenant).unwrap();
    (cut.root, *vault.packs_of(cut.root).unwrap().first().unwrap())
}

/// What was copied behind the backup is this machine's to remove, however far its own copy has come.
#[tokio::test]
async fn what_is_inherited_is_recorded_before_it_is_taken() {
    let (bucket, session) = (tempfile::tempdir().unwrap(), Session::example(1));
    let node = Node::fresh();
    let of = |node: Node| open_as(bucket.path(), "a", node);
    let (old, now) = (of(node.clone()), of(node.successor()));
    old.claim(&session.tenant, session.id, 1).await.unwrap();
    let stage = Stage::with(Some(now.clone())).await;
    stage.add(&session).await;
    let owned = own(&stage.shared, &now, &session).await.unwrap();
    assert!(matches!(owned, Owned::Anew(2)));
    let store = &stage.shared.store;
    assert_eq!(store.generation(session.id).await.unwrap(), Some(RESTORED));
    store.purge_session(session.id).await.unwrap();
    assert!(store.purged_copy(session.id).await.unwrap().is_some());
}

/// Also a daemon that dies in between has noted it.
#[tokio::test]
async fn who_takes_a_session_has_noted_it_before() {
    let bucket = tempfile::tempdir().unwrap();
    let [here, there] = [(); 2].map(|()| open(bucket.path(), "a"));
    let stage = Stage::with(Some(here.clone())).await;
    let (shared, store) = (&stage.shared, &stage.shared.store);
    let [taken, ours] = [1, 2].map(Session::example);
    there.claim(&taken.tenant, taken.id, 1).await.unwrap();
    stage.add(&taken).await;
    assert!(matches!(own(shared, &here, &taken).await, Err(NotCopied::Lost)));
    // It may come back from there.
    assert_eq!(store.generation(taken.id).await.unwrap(), None);
    store.purge_session(taken.id).await.unwrap();
    assert!(store.purged_copy(taken.id).await.unwrap().is_some());
    // One that was taken, of which no more was recorded, is taken in the same generation.
    stage.add(&ours).await;
    store.note_claim(ours.id).await.unwrap();
    here.claim(&ours.tenant, ours.id, 1).await.unwrap();
    assert!(matches!(own(shared, &here, &ours).await, Ok(Owned::Still(1))));
    assert_eq!(store.generation(ours.id).await.unwrap(), Some(1));
}

/// What its new owner has is nothing that it knows of.
#[tokio::test]
async fn who_has_lost_a_session_removes_nothing() {
    let bucket = tempfile::tempdir().unwrap();
    let objects = open(bucket.path(), "a");
    let stage = Stage::with(Some(objects.clone())).await;
    let (shared, session) = (&stage.shared, Session::example(1));
    let (tenant, id) = (&session.tenant, session.id);
    stage.add(&session).await;
    let name = |generation: u32, seq: u64| ManifestName {
        generation,
        seq,
        at: 0,
        point: PointId(Uuid::from_u128(seq.into())),
    };
    // Of its own all but one are to go.
    let own: Vec<_> = (1..=2).map(|seq| name(1, seq)).collect();
    for name in &own {
        objects.put(tenant, &Place::Point(tenant, id, *name), b"content").await.unwrap();
    }
    prune(shared, &objects, (&session, 1)).await.unwrap();
    assert_eq!(manifests(&objects, tenant, id).await.unwrap(), own[1..]);
    for name in own.iter().copied().chain([name(2, 1)]) {
        objects.put(tenant, &Place::Point(tenant, id, name), b"content").await.unwrap();
    }
    let pruned = prune(shared, &objects, (&session, 1)).await;
    assert!(matches!(pruned, Err(NotCopied::Lost)), "{pruned:?}");
    assert_eq!(manifests(&objects, tenant, id).await.unwrap().len(), 3);
}

/// Others have it in their points as well.
#[tokio::test]
async fn a_damaged_pack_does_not_take_the_place_of_a_whole_one() {
    let bucket = tempfile::tempdir().unwrap();
    let objects = open(bucket.path(), "a");
    let stage = Stage::with(Some(objects.clone())).await;
    let (shared, session) = (&stage.shared, Session::example(1));
    let tenant = &session.tenant;
    stage.add_with_files(&session).await;
    let (root, pack) = cut(shared, &session).await;
    let path = shared.places.vaults().join(format!("{tenant}/packs/{pack}.pack"));
    let whole = std::fs::read(&path).unwrap();
    let mut rotten = whole.clone();
    // What the files hold, which nobody reads to find out what a point consists of.
    rotten[8..12].fill(0xff);
    std::fs::write(&path, &rotten).unwrap();
    let (place, none) = (Place::Pack(tenant, pack), BTreeSet::new());
    let limit = Limit(1 << 20);
    // What nobody can use is not put there.
    let sent = packs(shared, &objects, (tenant, root), &none).await;
    let damaged = matches!(sent, Err(NotCopied::Snapshots(SnapshotError::Damaged { .. })));
    assert!(damaged, "{sent:?}");
    assert!(objects.get(tenant, &place, limit).await.is_err());
    objects.put(tenant, &place, &whole).await.unwrap();
    packs(shared, &objects, (tenant, root), &none).await.unwrap();
    assert!(objects.get(tenant, &place, limit).await.unwrap() == whole);
    assert!(std::fs::read(&path).unwrap() == whole, "it is mended here");
}

#[tokio::test]
async fn what_was_sealed_with_the_key_of_before_is_sent_again() {
    let (bucket, none) = (tempfile::tempdir().unwrap(), BTreeSet::new());
    let [before, now] = ["a", "b"].map(|digit| open(bucket.path(), digit));
    let (stage, session) = (Stage::with(Some(now.clone())).await, Session::example(1));
    let (shared, tenant) = (&stage.shared, &session.tenant);
    stage.add_with_files(&session).await;
    let (root, pack) = cut(shared, &session).await;
    let (place, limit) = (Place::Pack(tenant, pack), Limit(1 << 20));
    before.put(tenant, &place, b"ours").await.unwrap();
    packs(shared, &now, (tenant, root), &none).await.unwrap();
    assert!(now.get(tenant, &place, limit).await.unwrap().starts_with(b"ashpack1"));
    // What can be opened stays, whoever has put it there.
    now.put(tenant, &place, b"theirs").await.unwrap();
    packs(shared, &now, (tenant, root), &none).await.unwrap();
    assert_eq!(now.get(tenant, &place, limit).await.unwrap(), b"theirs");
}

/// Manifests that were written long ago have it.
#[test]
fn a_digest_is_of_names_lengths_and_contents() {
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path();
    let large: Vec<u8> = (0..200_003_u32).map(|at| (at % 251) as u8).collect();
    std::fs::create_dir(root.join("b")).unwrap();
    let files: [(&str, &[u8]); 3] = [("a", b""), ("b/large", &large), ("c", b"text")];
    let mut whole: Vec<u8> = vec![];
    for (path, content) in files {
        std::fs::write(root.join(path), content).unwrap();
        whole.extend((path.len() as u64).to_le_bytes());
        whole.extend(path.as_bytes());
        whole.extend((content.len() as u64).to_le_bytes());
        whole.extend(content);
    }
    assert_eq!(digest(root).unwrap(), *blake3::hash(&whole).as_bytes());
    std::fs::write(root.join("c"), "tex").unwrap();
    assert_ne!(digest(root).unwrap(), *blake3::hash(&whole).as_bytes());
}

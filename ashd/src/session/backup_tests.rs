use super::*;
use crate::domain::session::RunningTurn;
use crate::domain::{EventKind, NewEvent, PointId, Root, TurnId};
use crate::session::stage::Stage;
use crate::store::EventRange;

fn session(n: u128) -> Session {
    Session { cli_session: "now".into(), ..Session::example(n) }
}

fn event(seq: u64) -> NewEvent {
    NewEvent {
        seq,
        kind: EventKind::User,
        turn: None,
        origin: None,
        replaces: false,
        body: format!("{{\"n\":{seq}}}").into(),
        at: Timestamp(0),
    }
}

fn point(n: u128, of: &Session, seq: u64) -> Point {
    let (id, session, cli_session) = (PointId(Uuid::from_u128(n)), of.id, format!("cli-{n}"));
    let root = Root([u8::try_from(n).unwrap(); 32]);
    Point { id, session, cli_session, root, ..Point::example(seq) }
}

async fn store(dir: &Path) -> Sqlite {
    Sqlite::open(&dir.join("ash.db"), Options::default()).unwrap()
}

/// Numbers of events that are not undone.
async fn told(store: &Sqlite, id: SessionId) -> Vec<(u64, EventKind)> {
    let range = EventRange { after: 0, limit: 99, kinds: vec![], undone: false };
    let events = store.events(id, range).await.unwrap();
    events.iter().map(|event| (event.seq, event.kind)).collect()
}

#[tokio::test]
async fn what_happened_behind_the_newest_point_is_undone() {
    let dir = tempfile::tempdir().unwrap();
    let store = store(dir.path()).await;
    let turn = RunningTurn { id: TurnId(Uuid::from_u128(7)), user_seq: 3 };
    let (busy, idle, new) = (session(1), session(2), session(3));
    store.create_session(busy.clone(), (1..=5).map(event).collect()).await.unwrap();
    let runs = SessionChange { turn: Some(Some(turn)), ..SessionChange::none() };
    store.commit(Commit::of(busy.id, runs, vec![])).await.unwrap();
    store.add_point(Point { turn: Some(turn), ..point(1, &busy, 4) }, 9).await.unwrap();
    let stopped = Session { status: Status::Stopped, ..idle.clone() };
    store.create_session(stopped, vec![event(1)]).await.unwrap();
    store.add_point(point(2, &idle, 1), 9).await.unwrap();
    store.create_session(new.clone(), vec![event(1)]).await.unwrap();
    assert_eq!(settle(&store).await.unwrap(), 1, "one was being made");
    assert!(store.session(new.id).await.unwrap().is_none());

    let now = store.session(busy.id).await.unwrap().unwrap();
    assert_eq!((now.status, now.turn, &*now.cli_session), (Status::Paused, None, "cli-1"));
    assert_eq!(now.restore, Some(PointId(Uuid::from_u128(1))));
    assert_ne!(now.sandbox, busy.sandbox, "what is left of it is nobody's");
    let all = told(&store, busy.id).await;
    assert_eq!(all[3..], [(4, EventKind::User), (6, EventKind::Error), (7, EventKind::Lifecycle)]);
    let newest = store.point(busy.id, Which::Newest).await.unwrap().unwrap();
    assert_eq!((newest.seq, newest.turn, newest.root), (7, None, Root([1; 32])));

    let now = store.session(idle.id).await.unwrap().unwrap();
    assert_eq!((now.status, now.last_seq), (Status::Stopped, 1));
    assert_eq!(now.restore, Some(PointId(Uuid::from_u128(2))));

    // Whoever could not be saved and is not in it, or had ended, is saved as well as can be.
    let over = Session { status: Status::Ended, ..session(4) };
    store.create_session(over.clone(), vec![event(1)]).await.unwrap();
    let stale = count_stale(&store, &[busy.id, new.id, over.id]).await.unwrap();
    assert_eq!(stale, 1);
    store.close().await;
}

#[tokio::test]
async fn one_that_was_going_back_goes_there() {
    let dir = tempfile::tempdir().unwrap();
    let store = store(dir.path()).await;
    let back = session(1);
    store.create_session(back.clone(), (1..=4).map(event).collect()).await.unwrap();
    // The older one is wanted; what was there before is saved, and newer.
    store.add_point(point(1, &back, 2), 9).await.unwrap();
    store.add_point(point(2, &back, 4), 9).await.unwrap();
    let wanted = PointId(Uuid::from_u128(1));
    let change = SessionChange { restore: Some(Some(wanted)), ..SessionChange::none() };
    let commit = Commit::of(back.id, change, vec![event(5)]);
    store.commit(Commit { back_to: Some(wanted), ..commit }).await.unwrap();
    assert_eq!(settle(&store).await.unwrap(), 0);
    let now = store.session(back.id).await.unwrap().unwrap();
    assert_eq!((now.restore, &*now.cli_session), (Some(wanted), "cli-1"));
    let all = told(&store, back.id).await;
    let kept = [(1, EventKind::User), (2, EventKind::User), (6, EventKind::Lifecycle)];
    assert_eq!(all, kept);
    store.close().await;
}

/// Backs up packs, and nothing that goes with them.
async fn back_up_packs(shared: &Arc<Shared>, dir: &Path) -> Vec<Entry> {
    let pinned = shared.pin_more(Pinned(vec![])).await.unwrap();
    let mut target = Target::open(File::open(dir).unwrap().into()).unwrap();
    let mut packs = vec![];
    shared.write_packs(&mut target, &pinned, &mut packs).unwrap();
    let (id, mut entries) = (Uuid::new_v4(), packs.clone());
    entries.push(target.copy(Name::Database(id), &mut &b"rows"[..]).unwrap());
    let (at, version, purged) = (Timestamp(0), String::new(), vec![]);
    let manifest = Manifest { id, at, version, schema: 1, sessions: 0, purged, entries };
    target.publish(&manifest).unwrap();
    packs
}

fn private() -> tempfile::TempDir {
    use std::os::unix::fs::PermissionsExt as _;
    let dir = tempfile::tempdir().unwrap();
    std::fs::set_permissions(dir.path(), std::fs::Permissions::from_mode(0o700)).unwrap();
    dir
}

#[tokio::test]
async fn a_pack_that_is_cut_off_does_not_take_the_place_of_a_whole_one() {
    let (dir, other, stage) = (private(), private(), Stage::set().await);
    let (shared, session) = (&stage.shared, session(1));
    stage.add_with_files(&session).await;
    let files = shared.places.session(session.id);
    drop(shared.cut_at_rest(&session, files).await.unwrap());
    let whole = back_up_packs(shared, dir.path()).await;
    assert_eq!(whole.len(), 1);
    let packs = shared.places.vaults().join("default/packs");
    let pack = std::fs::read_dir(packs).unwrap().next().unwrap().unwrap().path();
    let bytes = std::fs::read(&pack).unwrap();
    std::fs::write(&pack, &bytes[..bytes.len() - 1]).unwrap();
    assert_eq!(back_up_packs(shared, dir.path()).await, whole);
    // Where nothing better is, it is better than nothing, until it is mended here.
    assert_ne!(back_up_packs(shared, other.path()).await, whole);
    std::fs::write(&pack, &bytes).unwrap();
    assert_eq!(back_up_packs(shared, other.path()).await, whole);
}

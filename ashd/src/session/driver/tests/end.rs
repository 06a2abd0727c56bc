//! A session that ends, and one that is purged.

use super::*;
use crate::session::api::Happened;

async fn end(driver: &mut Driver, purge: bool) -> Result<Arc<SessionView>, Refusal> {
    let (reply, ended) = oneshot::channel();
    driver.command(Command::End { purge, reply }).await;
    ended.await.unwrap()
}

async fn purge(driver: &mut Driver) -> Result<Arc<SessionView>, Refusal> {
    end(driver, true).await
}

#[tokio::test]
async fn uids_stay_taken_while_something_runs_with_them() {
    let (stage, mut driver, _bridge) = idle(Status::Active).await;
    let slots = &stage.shared.slots;
    let slot = Some(Some(slots.take().unwrap()));
    driver.commit(SessionChange { slot, ..SessionChange::none() }, vec![]).await.unwrap();
    let group = stage.stays(driver.session.sandbox);
    for purge in [true, false] {
        assert!(matches!(end(&mut driver, purge).await, Err(Refusal::Sandbox(_))));
        assert!(!driver.over && slots.used().len() == 1);
    }
    std::fs::remove_dir_all(group).unwrap();
    end(&mut driver, false).await.unwrap();
    assert!(driver.over && slots.used().is_empty());
}

#[tokio::test]
async fn what_is_purged_is_recorded_as_gone_and_as_nothing_else() {
    let (stage, mut driver, _bridge) = idle(Status::Active).await;
    let (id, mut told) = (driver.session.id, stage.shared.happened.subscribe());
    meddle(
        &stage,
        "CREATE TRIGGER full BEFORE INSERT ON events
             BEGIN SELECT RAISE(ABORT, 'there is no room'); END;
         CREATE TRIGGER still BEFORE UPDATE ON sessions
             BEGIN SELECT RAISE(ABORT, 'nothing changes'); END",
    );
    let view = purge(&mut driver).await.unwrap();
    assert_eq!(view.session.status, Status::Ended);
    assert!(driver.over && driver.link.is_none());
    assert_eq!(stage.shared.store.session(id).await.unwrap(), None);
    let changed = told.recv().await.unwrap();
    assert!(matches!(changed, Happened::SessionChanged(_, of, Status::Ended) if of == id));
    assert!(matches!(told.recv().await, Ok(Happened::SessionPurged(_, of)) if of == id));
}

#[tokio::test]
async fn one_that_cannot_be_purged_loses_its_sandbox_and_is_as_before() {
    let (stage, mut driver, _bridge) = idle(Status::Active).await;
    meddle(
        &stage,
        "CREATE TRIGGER kept BEFORE DELETE ON sessions BEGIN SELECT RAISE(ABORT, 'it stays'); END",
    );
    assert!(matches!(purge(&mut driver).await, Err(Refusal::Store(_))));
    assert!(!driver.over && driver.link.is_none());
    assert_eq!(driver.state, State::cold(Status::Active, 4));
    let kept = stage.shared.store.session(driver.session.id).await.unwrap().unwrap();
    assert_eq!(kept.status, Status::Active);
    meddle(&stage, "DROP TRIGGER kept");
    purge(&mut driver).await.unwrap();
    assert!(driver.over);
}

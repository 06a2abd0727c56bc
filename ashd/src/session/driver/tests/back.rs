//! Going back, and who may not.

use super::*;
use crate::domain::{Tenant, Which};

#[tokio::test]
async fn nothing_is_pinned_for_whoever_may_not_go_back() {
    let is_pinned =
        |stage: &Stage| stage.shared.snapshots.known_vault(&Tenant::default()).unwrap().is_some();
    for answers in [true, false] {
        let (stage, mut driver, _bridge) = match answers {
            true => answering(Status::Active).await,
            false => idle(Status::Active).await,
        };
        let (reply, answer) = oneshot::channel();
        driver.command(Command::GoBack { to: Goal::Point(Which::Newest), reply }).await;
        let refusal = answer.await.unwrap().err().unwrap();
        assert_eq!(matches!(refusal, Refusal::Busy), answers, "{refusal}");
        assert_eq!(matches!(refusal, Refusal::NoCheckpoint), !answers, "{refusal}");
        // Only whoever looks for a point opens the vault.
        assert_eq!(is_pinned(&stage), !answers);
    }
}

//! Memory and processes for those who wait for them: what a sandbox has that nobody uses.
//!
//! A warm one goes that no session has, at each look. When there is none left the one goes that nobody has used
//! for longest, as where as many live as may: one at a time, however many wait, and the next not before it
//! shows what that has brought, or all of them would go for somebody who needs what one has.

use std::time::Duration;

use tokio::sync::Mutex;
use tokio::time::Instant;

use super::ladder::Whose;
use super::shared::{MAKING_ROOM, Shared};
use crate::sandbox::admission::Strain;

/// When what came back shows in what is counted: the kernel takes it back behind the last process.
const COUNTED: Duration = Duration::from_secs(1);

/// And in what the kernel says of tasks that stand still: its word is of two seconds, and holds for five.
const TOLD: Duration = Duration::from_secs(8);

/// The most that go for somebody who waits. Who begins needs about as much as each of them has: when so
/// many have not helped, something else takes it.
const MOST: u32 = 4;

/// When one went last, or was asked to. Whoever sees to it that one goes has it locked.
#[derive(Default)]
pub(super) struct Relief(Mutex<Option<Instant>>);

impl Shared {
    /// Has a sandbox go that nobody uses, for somebody for whom so many have gone already, unless another
    /// one is about to go or has just gone. Returns by `end` at the latest.
    pub(super) async fn relieve(&self, strain: &Strain, gone: &mut u32, end: Instant) {
        let Ok(mut last) = self.gates.relief.0.try_lock() else { return };
        if self.make_place() {
            *last = Some(Instant::now());
            return;
        }
        if *gone >= MOST || last.is_some_and(|last| last.elapsed() < shows_after(strain)) {
            return;
        }
        // Noted before: whoever hangs up meanwhile and comes again has no further one go for it.
        let before = last.replace(Instant::now());
        if self.evict(Whose::Anybody, end.min(Instant::now() + MAKING_ROOM)).await {
            *last = Some(Instant::now());
            *gone += 1;
        } else {
            *last = before;
        }
    }
}

/// When it shows what a sandbox had that has gone.
fn shows_after(strain: &Strain) -> Duration {
    // Where too little is free as well, that is so now.
    match strain.is_pressed && strain.memory().is_ok() {
        true => TOLD,
        false => COUNTED,
    }
}

#[cfg(test)]
mod tests {
    use tokio::sync::mpsc;
    use tokio::time::{sleep, timeout};

    use super::*;
    use crate::domain::{SandboxId, Session, Tenant};
    use crate::sandbox::pressure::Pressure;
    use crate::session::admission::Entry;
    use crate::session::api::Refusal;
    use crate::session::driver::Command;
    use crate::session::ladder::{Place, Rung};
    use crate::session::stage::Stage;

    const SHORT: Pressure = Pressure { memory: true, cpu: false, io: false };

    /// Shorter than any pause.
    const MOMENT: Duration = Duration::from_millis(500);

    /// A session whose sandbox stands still, and what its driver is asked.
    struct Resting {
        session: Session,
        asked: mpsc::Receiver<Command>,
    }

    impl Resting {
        /// One whose sandbox nobody has used for so many seconds.
        fn begin(stage: &Stage, number: u128, seconds: u64) -> Resting {
            let session = Session::example(number);
            let idle_since = Instant::now().checked_sub(Duration::from_secs(seconds));
            let (sandbox, rung) = (session.sandbox, Rung::Frozen);
            let place = Place { sandbox, idle_since, has_tasks: false, rung };
            let asked = stage.shows(&session, place);
            Resting { session, asked }
        }

        /// Waits until it is asked to go, and then so long; and goes.
        async fn goes(&mut self, stage: &Stage, after: Duration) {
            let asked = timeout(100 * TOLD, self.asked.recv()).await;
            let Ok(Some(Command::Rest { reply, .. })) = asked else { panic!("it is not asked") };
            sleep(after).await;
            stage.shared.ladder.show(&self.session, None);
            reply.send(true).unwrap();
        }

        fn is_asked(&mut self) -> bool {
            self.asked.try_recv().is_ok()
        }
    }

    /// A machine whose clock only goes on when nothing happens, with so many, the oldest first.
    async fn set<const N: usize>() -> (Stage, [Resting; N]) {
        let stage = Stage::set().await;
        tokio::time::pause();
        let begin = |at: usize| Resting::begin(&stage, at as u128 + 1, 30 - at as u64);
        let resting = std::array::from_fn(begin);
        (stage, resting)
    }

    async fn enter(stage: &Stage) -> Result<Entry, Refusal> {
        stage.shared.enter((Tenant::default(), "other".parse().unwrap()), None).await
    }

    #[tokio::test]
    async fn they_go_one_by_one_however_many_wait_and_until_there_is_enough() {
        let (stage, [mut first, mut second, mut third]) = set::<3>().await;
        stage.shared.sandboxes.press(SHORT);
        let going = async {
            tokio::join!(first.goes(&stage, MOMENT), async {
                assert!(timeout(MOMENT, second.asked.recv()).await.is_err(), "two at a time");
            });
            let gone = Instant::now();
            second.goes(&stage, Duration::ZERO).await;
            assert!(gone.elapsed() >= TOLD, "{:?}", gone.elapsed());
            stage.shared.sandboxes.press(Pressure::default());
        };
        let (one, other, ()) = tokio::join!(enter(&stage), enter(&stage), going);
        assert!(one.is_ok() && other.is_ok());
        assert!(!third.is_asked());
    }

    #[tokio::test]
    async fn not_all_of_them_go_for_one_that_waits() {
        let (stage, mut all) = set::<{ MOST as usize + 1 }>().await;
        stage.shared.live.write().unwrap().admission.patience = 100 * TOLD;
        stage.shared.sandboxes.press(SHORT);
        let (last, others) = all.split_last_mut().unwrap();
        let going = async {
            for one in others {
                one.goes(&stage, Duration::ZERO).await;
            }
            assert!(timeout(10 * TOLD, last.asked.recv()).await.is_err());
        };
        tokio::select! {
            _ = enter(&stage) => panic!("memory is short all the time"),
            () = going => {}
        }
    }

    #[tokio::test]
    async fn who_hangs_up_and_comes_again_has_no_more_of_them_go() {
        let (stage, [mut first, mut second]) = set::<2>().await;
        stage.shared.sandboxes.press(SHORT);
        assert!(timeout(MOMENT, enter(&stage)).await.is_err());
        assert!(first.is_asked());
        for _ in 0..3 {
            assert!(timeout(MOMENT, enter(&stage)).await.is_err());
            assert!(!first.is_asked() && !second.is_asked());
        }
    }

    #[tokio::test]
    async fn one_that_is_used_never_goes_nor_any_for_want_of_processors_or_disks() {
        let (stage, [mut idle, mut used]) = set::<2>().await;
        let place = stage.shared.ladder.place(used.session.id).unwrap();
        stage.shared.ladder.show(&used.session, Some(Place { idle_since: None, ..place }));
        let _running = stage.shared.gates.turns.take(&Tenant::default());
        stage.shared.sandboxes.press(Pressure { cpu: true, io: true, memory: false });
        assert!(enter(&stage).await.is_ok());
        assert!(!idle.is_asked());
        stage.shared.sandboxes.press(SHORT);
        let (entered, ()) = tokio::join!(enter(&stage), idle.goes(&stage, Duration::ZERO));
        assert!(matches!(entered, Err(Refusal::Capacity { .. })), "it is short all the time");
        assert!(!used.is_asked());
    }

    #[tokio::test]
    async fn what_gets_short_while_one_makes_room_is_waited_for() {
        let (stage, [mut resting]) = set::<1>().await;
        let mut taken = vec![];
        for _ in 0..stage.shared.options.max_sandboxes {
            taken.push(stage.shared.room(SandboxId::random()).await.ok().unwrap());
        }
        let going = async {
            resting.goes(&stage, Duration::ZERO).await;
            taken.pop();
            stage.shared.sandboxes.press(SHORT);
            sleep(MAKING_ROOM).await;
            stage.shared.sandboxes.press(Pressure::default());
            Instant::now()
        };
        let entering = async { (enter(&stage).await.is_ok(), Instant::now()) };
        let (enough_at, (is_in, in_at)) = tokio::join!(going, entering);
        assert!(is_in && in_at >= enough_at);
    }

    #[test]
    fn what_is_counted_shows_sooner_than_what_is_told() {
        let told = Strain { is_pressed: true, memory_free: 9, memory_reserve: 9, pids: [None; 2] };
        assert_eq!(shows_after(&told), TOLD);
        assert_eq!(shows_after(&Strain { memory_free: 8, ..told }), COUNTED);
        assert_eq!(shows_after(&Strain { is_pressed: false, ..told }), COUNTED);
    }
}

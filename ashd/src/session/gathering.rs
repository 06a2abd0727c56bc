//! What is done for many at a time, in the background, because it costs as much for one.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::sleep;

/// Things that are done together. What comes while others are being done waits, and goes together behind them:
/// there is one at it, however many come.
pub(super) struct Gathering<T> {
    /// How long others are waited for each time, if at all.
    pause: Option<Duration>,
    gathered: Mutex<Gathered<T>>,
}

struct Gathered<T> {
    waiting: Vec<T>,
    /// Whether somebody sees to what waits.
    is_seen_to: bool,
}

impl<T: Send + 'static> Gathering<T> {
    /// Of things that are done when others have been waited for so long; `None`: at once.
    pub(super) fn new(pause: Option<Duration>) -> Arc<Gathering<T>> {
        let gathered = Gathered { waiting: vec![], is_seen_to: false };
        Arc::new(Gathering { pause, gathered: Mutex::new(gathered) })
    }

    /// Has a thing done, with others that come in time. `act` does some of them, and is the same for each.
    pub(super) fn add<F>(self: &Arc<Self>, thing: T, act: impl Fn(Vec<T>) -> F + Send + 'static)
    where
        F: Future<Output = ()> + Send + 'static,
    {
        if !self.is_first(thing) {
            return;
        }
        let gathering = self.clone();
        tokio::spawn(async move {
            while gathering.goes_on() {
                if let Some(pause) = gathering.pause {
                    sleep(pause).await;
                }
                let done = act(gathering.take());
                done.await;
            }
        });
    }

    /// Puts a thing to the others; whether nobody sees to them yet.
    fn is_first(&self, thing: T) -> bool {
        let mut gathered = self.lock();
        gathered.waiting.push(thing);
        !std::mem::replace(&mut gathered.is_seen_to, true)
    }

    /// Whether something waits. If not, whoever comes next is the first again.
    fn goes_on(&self) -> bool {
        let mut gathered = self.lock();
        gathered.is_seen_to = !gathered.waiting.is_empty();
        gathered.is_seen_to
    }

    /// What waits; whoever takes it does it.
    pub(super) fn take(&self) -> Vec<T> {
        std::mem::take(&mut self.lock().waiting)
    }

    fn lock(&self) -> MutexGuard<'_, Gathered<T>> {
        self.gathered.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use tokio::sync::{Semaphore, mpsc};
    use tokio::task::yield_now;
    use tokio::time::{Instant, timeout};

    use super::*;

    const PAUSE: Duration = Duration::from_secs(5);

    /// As long as the slowest machine takes.
    const A_LONG_TIME: Duration = Duration::from_secs(60);

    /// Numbers that are gathered, what is done, and who says that it is done.
    struct Scene {
        gathering: Arc<Gathering<u8>>,
        tell: mpsc::UnboundedSender<Vec<u8>>,
        told: mpsc::UnboundedReceiver<Vec<u8>>,
        done: Arc<Semaphore>,
    }

    impl Scene {
        fn set(pause: Option<Duration>) -> Scene {
            let (tell, told) = mpsc::unbounded_channel();
            let done = Arc::new(Semaphore::new(0));
            Scene { gathering: Gathering::new(pause), tell, told, done }
        }

        fn add(&self, number: u8) {
            let (tell, done) = (self.tell.clone(), self.done.clone());
            self.gathering.add(number, move |numbers| {
                let (tell, done) = (tell.clone(), done.clone());
                async move {
                    let _ = tell.send(numbers);
                    if let Ok(one) = done.acquire().await {
                        one.forget();
                    }
                }
            });
        }

        /// What is begun next.
        async fn next(&mut self) -> Vec<u8> {
            let next = timeout(A_LONG_TIME, self.told.recv()).await;
            next.expect("nobody sees to it").expect("it can be told")
        }

        /// What is being done is done.
        fn end(&self) {
            self.done.add_permits(1);
        }

        /// All of it is done.
        async fn end_all(&self) {
            self.end();
            let over = async {
                while self.gathering.lock().is_seen_to {
                    yield_now().await;
                }
            };
            timeout(A_LONG_TIME, over).await.expect("it does not end");
        }
    }

    #[tokio::test]
    async fn what_comes_meanwhile_goes_together_behind_the_others() {
        let mut scene = Scene::set(None);
        scene.add(1);
        assert_eq!(scene.next().await, [1]);
        (2..=4).for_each(|number| scene.add(number));
        yield_now().await;
        assert!(scene.told.try_recv().is_err(), "two are at it");
        scene.end();
        assert_eq!(scene.next().await, [2, 3, 4]);
        scene.end_all().await;
        assert!(scene.told.try_recv().is_err(), "something is done twice");
    }

    #[tokio::test]
    async fn what_comes_when_all_is_done_is_done_as_well() {
        let mut scene = Scene::set(None);
        for number in 1..=3 {
            scene.add(number);
            assert_eq!(scene.next().await, [number]);
            scene.end_all().await;
        }
    }

    #[tokio::test]
    async fn others_are_waited_for_each_time() {
        let mut scene = Scene::set(Some(PAUSE));
        tokio::time::pause();
        let begun = Instant::now();
        scene.add(1);
        yield_now().await;
        scene.add(2);
        assert_eq!(scene.next().await, [1, 2]);
        assert!((PAUSE..2 * PAUSE).contains(&begun.elapsed()), "{:?}", begun.elapsed());
        scene.add(3);
        scene.end();
        let begun = Instant::now();
        assert_eq!(scene.next().await, [3]);
        assert!((PAUSE..2 * PAUSE).contains(&begun.elapsed()), "{:?}", begun.elapsed());
    }
}

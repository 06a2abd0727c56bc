use std::thread;

use super::*;

const LONG: Duration = Duration::from_secs(10);

/// One who comes to save.
fn save(gate: &Gate) -> Pin {
    gate.enter_unless(&AtomicBool::new(false)).unwrap()
}

fn close(collector: &Collector) -> Closed<'_> {
    collector.chose();
    close_since(collector, collector.quiet(LONG).unwrap()).unwrap()
}

/// Closes the vault when all points have been followed to all of them.
fn close_since(collector: &Collector, quiet: Quiet) -> Option<Closed<'_>> {
    let followed = collector.points().into_iter().collect();
    collector.close(quiet, (&followed, &HashSet::new()))
}

#[test]
fn nobody_is_kept_out_but_at_the_moment_at_which_nobody_is_in() {
    let gate = Gate::default();
    let (one, two) = (gate.enter(), gate.enter());
    assert!(gate.begin(Duration::ZERO).is_none());
    drop(one);
    assert!(gate.begin(Duration::from_millis(1)).is_none());
    drop(two);
    let collector = gate.begin(Duration::ZERO).unwrap();
    assert!(gate.begin(Duration::ZERO).is_none(), "one at a time");
    let quiet = collector.quiet(Duration::ZERO).unwrap();
    assert!(close_since(&collector, quiet).is_none(), "nothing is chosen");
    collector.chose();
    let pin = gate.enter();
    assert!(collector.quiet(Duration::ZERO).is_none());
    drop(pin);
    let quiet = collector.quiet(Duration::ZERO).unwrap();
    drop(gate.enter());
    assert!(close_since(&collector, quiet).is_none(), "somebody has been there");
    let closed = close(&collector);
    let late = thread::spawn({
        let gate = gate.clone();
        move || drop(gate.enter())
    });
    assert_eq!(gate.state().users, 0);
    drop(closed);
    late.join().unwrap();
    // It can be tried again, and nobody waits for what comes behind it.
    close(&collector).remove(HashSet::new());
    drop((gate.enter(), save(&gate)));
    drop(collector);
    assert!(gate.begin(LONG).is_some());
}

#[test]
fn of_those_who_save_only_who_came_before_it_was_chosen_what_may_go_is_waited_for() {
    let gate = Gate::default();
    let early = save(&gate);
    let collector = gate.begin(Duration::ZERO).unwrap();
    let other = save(&gate);
    collector.chose();
    let late = save(&gate);
    drop(other);
    assert!(collector.quiet(Duration::ZERO).is_none());
    let rest = early.clone();
    drop(early);
    assert!(collector.quiet(Duration::ZERO).is_none(), "some of it is still there");
    drop(rest);
    let quiet = collector.quiet(Duration::ZERO).unwrap();
    let later = save(&gate);
    close_since(&collector, quiet).unwrap().remove(HashSet::new());
    drop(collector);
    // They came before it is chosen the next time.
    let collector = gate.begin(Duration::ZERO).unwrap();
    collector.chose();
    drop(late.clone());
    for pin in [late, later] {
        assert!(collector.quiet(Duration::ZERO).is_none());
        drop(pin);
    }
    assert!(collector.quiet(Duration::ZERO).is_some());
    let state = gate.state();
    assert_eq!((state.users, state.early, state.late), (0, 0, 0));
}

#[test]
fn points_that_somebody_is_at_are_followed_and_nobody_is_waited_for() {
    let gate = Gate::default();
    let [read, was_read, looked_up] = [1, 2, 3].map(|n| Root([n; 32]));
    let reading = (gate.enter_for(read), gate.enter_for(read));
    let collector = gate.begin(Duration::ZERO).unwrap();
    let mut pin = gate.enter();
    collector.chose();
    drop(gate.enter_for(was_read));
    assert!(collector.quiet(Duration::ZERO).is_none());
    pin.only(looked_up);
    let quiet = collector.quiet(Duration::ZERO).unwrap();
    let points: HashSet<Root> = collector.points().into_iter().collect();
    assert_eq!(points, HashSet::from([read, was_read, looked_up]));
    let (two, one) = (HashSet::from([read, looked_up]), HashSet::from([was_read]));
    assert!(collector.close(quiet, (&two, &HashSet::new())).is_none());
    // One that is damaged keeps nothing else.
    let closed = collector.close(quiet, (&two, &one)).unwrap();
    assert_eq!(closed.since().points, points);
    closed.remove(two);
    drop((reading, pin.clone(), pin, collector));
    let state = gate.state();
    assert!(state.users == 0 && state.points.is_empty());
}

#[test]
fn what_is_known_of_files_is_relied_on_when_nothing_goes_that_it_names() {
    let gate = Gate::default();
    let [one, two, three] = [(); 3].map(|()| SessionId::random());
    let root = Root([1; 32]);
    let collector = gate.begin(Duration::ZERO).unwrap();
    let early = save(&gate);
    collector.chose();
    let late = save(&gate);
    // Of one who is waited for nothing goes.
    assert!(early.trusts(one, None) && !late.trusts(one, None));
    assert!(early.trusts(two, Some(root)) && collector.points().is_empty());
    // What a point has stays when that is followed.
    assert!(late.trusts(two, Some(root)));
    assert_eq!(collector.points(), [root]);
    let root_only = HashSet::from([root]);
    assert!(early.wrote_scan(one, None) && early.wrote_scan(three, None));
    // Who came later relies on nothing that may go, and so does who relies on that.
    assert!(late.wrote_scan(one, Some(Root([2; 32]))) && late.trusts(one, None));
    drop(gate.enter_for(Root([2; 32])));
    assert_eq!(collector.points(), [root]);
    drop(early);
    let quiet = collector.quiet(LONG).unwrap();
    // Nobody can tell what one needs that is damaged.
    assert!(collector.close(quiet, (&HashSet::new(), &root_only)).is_none());
    let closed = collector.close(quiet, (&root_only, &HashSet::new())).unwrap();
    assert!(!late.trusts(one, None), "it may have been forgotten by now");
    let since = closed.since();
    assert_eq!(since.scans, HashMap::from([(three, None)]));
    assert_eq!(since.sound, HashSet::from([one]));
    closed.remove(HashSet::new());
    assert!(save(&gate).trusts(three, None));
}

#[test]
fn what_is_brought_back_takes_the_place_of_what_a_save_knew() {
    let (gate, session) = (Gate::default(), SessionId::random());
    let [saved, returned] = [1, 2].map(|n| Root([n; 32]));
    let collector = gate.begin(Duration::ZERO).unwrap();
    collector.chose();
    let late = save(&gate);
    assert!(late.wrote_scan(session, Some(saved)));
    assert!(gate.enter_for(returned).wrote_scan(session, Some(returned)));
    // It is of another point now, which has to be followed to all of it.
    assert!(late.trusts(session, Some(returned)));
    let (all, none) = (HashSet::from([returned]), HashSet::new());
    let quiet = collector.quiet(LONG).unwrap();
    assert!(collector.close(quiet, (&none, &all)).is_none());
    let since = collector.close(quiet, (&all, &none)).unwrap().since();
    assert_eq!(since.scans, HashMap::from([(session, Some(returned))]));
    assert!(since.sound.is_empty());
}

/// A fork reads little of its point: it can have a damaged one.
#[test]
fn nothing_is_noted_of_a_damaged_point_that_was_removed() {
    let (gate, session) = (Gate::default(), SessionId::random());
    let [damaged, other] = [1, 2].map(|n| Root([n; 32]));
    let (pin, gone) = (gate.enter_for(damaged), gate.enter_for(other));
    let collector = gate.begin(Duration::ZERO).unwrap();
    drop(gone);
    collector.chose();
    assert!(pin.wrote_scan(session, Some(damaged)), "it is told who notes what goes");
    let quiet = collector.quiet(Duration::ZERO).unwrap();
    let both = HashSet::from([damaged, other]);
    let closed = collector.close(quiet, (&HashSet::new(), &both)).unwrap();
    assert!(!pin.wrote_scan(session, Some(damaged)));
    closed.remove(HashSet::new());
    drop(collector);
    let rest = pin.clone();
    drop(pin);
    assert!(!rest.wrote_scan(session, Some(damaged)));
    assert!(rest.wrote_scan(session, Some(other)) && rest.wrote_scan(session, None));
    drop(rest);
    // What is brought back from then on was looked for in the store.
    assert!(gate.enter_for(damaged).wrote_scan(session, Some(damaged)));
    assert!(gate.state().unfollowed.is_empty());
}

#[test]
fn who_is_there_keeps_nothing_that_is_forgotten() {
    let (gate, session) = (Gate::default(), SessionId::random());
    let pin = save(&gate);
    assert!(pin.wrote_scan(session, None));
    let forgetting = gate.forget();
    // It may have found some of it, whether it ends before all is forgotten or behind that.
    let meanwhile = save(&gate);
    assert!(!pin.wrote_scan(session, None) && !meanwhile.wrote_scan(session, None));
    drop(forgetting);
    assert!(!pin.wrote_scan(session, None) && !pin.clone().wrote_scan(session, None));
    assert!(!meanwhile.wrote_scan(session, None));
    assert!(save(&gate).wrote_scan(session, None));
}

#[test]
fn whoever_gives_up_does_not_wait() {
    let (gate, cancel) = (Gate::default(), AtomicBool::new(false));
    let collector = gate.begin(Duration::ZERO).unwrap();
    let _closed = close(&collector);
    thread::scope(|scope| {
        let waiting = scope.spawn(|| gate.enter_unless(&cancel).is_none());
        cancel.store(true, Ordering::Relaxed);
        assert!(waiting.join().unwrap());
    });
}

#[test]
fn whoever_collects_makes_way_for_those_who_want_nothing_moved() {
    let gate = Gate::default();
    let collector = gate.begin(Duration::ZERO).unwrap();
    drop(gate.enter_still());
    close(&collector).remove(HashSet::new());
    assert!(!collector.is_in_the_way());
    let still = thread::spawn({
        let gate = gate.clone();
        move || gate.enter_still()
    });
    while !collector.is_in_the_way() {
        thread::yield_now();
    }
    drop(collector);
    let pin = still.join().unwrap();
    assert!(gate.begin(Duration::ZERO).is_none());
    drop(pin);
    // So does whoever only finds out what goes, for those who want the vault for themselves.
    let collector = gate.begin(Duration::ZERO).unwrap();
    let alone = thread::spawn({
        let gate = gate.clone();
        move || gate.alone(LONG).is_some()
    });
    while !collector.is_in_the_way() {
        thread::yield_now();
    }
    assert!(collector.quiet(LONG).is_none());
    drop(collector);
    assert!(alone.join().unwrap());
    assert!(gate.begin(Duration::ZERO).is_some());
}

#[test]
fn what_came_meanwhile_is_told_and_who_comes_later_learns_what_stays() {
    let (gate, session) = (Gate::default(), SessionId::random());
    let [kept, gone] = [1, 2].map(|n| Root([n; 32]));
    let before = gate.enter();
    before.wrote_scan(session, Some(gone));
    drop(before);
    let collector = gate.begin(Duration::ZERO).unwrap();
    let pin = gate.enter();
    pin.wrote_scan(session, Some(kept));
    pin.needs_pack(Uuid::nil());
    assert!(pin.keeps(gone), "nothing is settled while it is there");
    drop(pin);
    let closed = close(&collector);
    let since = closed.since();
    assert_eq!(since.scans, HashMap::from([(session, Some(kept))]));
    assert_eq!(since.packs, HashSet::from([Uuid::nil()]));
    closed.remove(HashSet::from([kept]));
    let pin = gate.enter();
    assert!(pin.keeps(kept) && !pin.keeps(gone) && !pin.clone().keeps(gone));
    drop(collector);
    assert!(gate.enter().keeps(gone));
}

use super::*;
use crate::domain::Session;
use crate::session::stage::Stage;

#[tokio::test]
async fn what_is_purged_goes_at_once_and_what_follows_it_goes_together() {
    let (stage, tenant) = (Stage::set().await, Tenant::default());
    let shared = &stage.shared;
    tokio::time::pause();
    let collecting = tokio::spawn(collect_for_ever(shared.clone()));
    // How long it takes until it is gone.
    let purge = async || {
        let begun = Instant::now();
        shared.snapshots.vault(&tenant).unwrap().note_purge(SessionId::random(), vec![]).unwrap();
        shared.garbage.left_by(&tenant);
        while was_purged(shared, &tenant) {
            sleep(Duration::from_millis(1)).await;
        }
        begun.elapsed()
    };
    let first = purge().await;
    let second = purge().await;
    assert!(first < GATHERING / 2 && second > GATHERING / 2, "{first:?}, {second:?}");
    collecting.abort();
}

/// Whoever collected may have taken the mark of a session whose rows came into the log later.
#[tokio::test]
async fn the_log_is_emptied_also_when_nothing_is_left_to_be_collected() {
    let stage = Stage::set().await;
    let shared = &stage.shared;
    tokio::time::pause();
    let log = || std::fs::metadata(shared.places.data_dir.join("ash.db-wal")).unwrap().len();
    stage.add(&Session::example(1)).await;
    assert!(log() > 0);
    let collecting = tokio::spawn(collect_for_ever(shared.clone()));
    shared.garbage.left_by(&Tenant::default());
    let emptied = async {
        while log() > 0 {
            sleep(Duration::from_millis(1)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(20), emptied).await.unwrap();
    collecting.abort();
}

#[test]
fn who_is_in_the_way_again_and_again_is_waited_for_longer() {
    let mut delayed = Delayed::default();
    let [one, other] = ["one", "two"].map(|name| name.parse::<Tenant>().unwrap());
    for times in [1, 2, 4, 8, 8] {
        assert_eq!(delayed.patience(&one), PATIENCE * times);
        delayed.note(&one, true);
    }
    assert_eq!(delayed.patience(&other), PATIENCE);
    delayed.note(&one, false);
    assert_eq!(delayed.patience(&one), PATIENCE);
    assert!(delayed.0.is_empty());
}

#[test]
fn who_was_delayed_least_often_goes_first() {
    let mut delayed = Delayed::default();
    let all = ["a", "b", "c", "d"].map(|name| name.parse::<Tenant>().unwrap());
    for (tenant, times) in all.iter().zip([2, 0, 1, 0]) {
        (0..times).for_each(|_| delayed.note(tenant, true));
    }
    let order = |delayed: &Delayed| {
        let order = delayed.in_order(all.clone().into());
        order.iter().map(Tenant::to_string).collect::<Vec<_>>().concat()
    };
    assert_eq!(order(&delayed), "bdca");
    delayed.note(&all[0], false);
    assert_eq!(order(&delayed), "abdc");
}

#[tokio::test]
async fn no_tenant_waits_for_another_one() {
    let stage = Stage::set().await;
    let shared = &stage.shared;
    // In the order in which they would be collected one after the other.
    let [slow, quick] = ["one", "two"].map(|name| name.parse::<Tenant>().unwrap());
    let in_the_way = shared.snapshots.vault(&slow).unwrap().pin();
    for tenant in [&slow, &quick] {
        let vault = shared.snapshots.vault(tenant).unwrap();
        vault.note_purge(SessionId::random(), vec![]).unwrap();
        shared.garbage.left_by(tenant);
    }
    let collecting = tokio::spawn(collect_for_ever(shared.clone()));
    let gone = async |tenant| {
        while was_purged(shared, tenant) {
            sleep(Duration::from_millis(1)).await;
        }
    };
    let soon = PATIENCE / 2;
    tokio::time::timeout(soon, gone(&quick)).await.expect("it waits for the other one");
    assert!(was_purged(shared, &slow));
    drop(in_the_way);
    tokio::time::timeout(soon, gone(&slow)).await.expect("nobody is in the way");
    collecting.abort();
}

/// Sending a large folder takes long: what was purged does not wait for it.
#[tokio::test]
async fn what_is_sent_stays_and_nobody_waits_for_it() {
    let (stage, session) = (Stage::set().await, Session::example(1));
    let (shared, tenant) = (&stage.shared, &session.tenant);
    stage.add_with_files(&session).await;
    let files = shared.places.session(session.id);
    let cut = shared.cut_at_rest(&session, files).await.unwrap();
    let all = || collect(shared, tenant, (Extent::All, false), Duration::ZERO);
    assert!(all().await.unwrap().is_none(), "it is pinned");
    let (vault, root) = (shared.snapshots.vault(tenant).unwrap(), cut.root);
    let sent = shared.copies.on_its_way.begin((tenant.clone(), root));
    drop(cut);
    // Also while somebody looks which packs it is in.
    for is_looked_at in [false, true] {
        let _pin = is_looked_at.then(|| vault.pin_point(root));
        let collected = all().await.unwrap().unwrap();
        assert!(collected.needed > 0 && collected.read == 0, "{collected:?}");
        assert!(vault.packs_of(root).is_ok());
    }
    drop(sent);
    assert_eq!(all().await.unwrap().unwrap().needed, 0);
    assert!(vault.packs_of(root).is_err());
}

#[test]
fn who_is_collected_already_is_collected_again_behind_that() {
    let garbage = Garbage::default();
    let [one, two] = ["one", "two"].map(|name| name.parse::<Tenant>().unwrap());
    let taken = |left: &[(&Tenant, Extent)]| {
        let left = left.iter().map(|(tenant, extent)| ((*tenant).clone(), *extent));
        assert_eq!(garbage.take(), left.collect::<Vec<_>>());
    };
    garbage.left_by(&one);
    taken(&[(&one, Extent::Purged)]);
    assert!(!garbage.comes(&one) && garbage.comes(&two), "its turn has come meanwhile");
    garbage.left_by(&one);
    garbage.left_by(&two);
    taken(&[]);
    garbage.done(&one);
    taken(&[(&one, Extent::Worthwhile)]);
    garbage.done(&two);
    taken(&[(&two, Extent::Purged)]);
    garbage.done(&one);
    garbage.done(&two);
    taken(&[]);
    assert!(garbage.comes(&one));
}

#[test]
fn what_is_purged_waits_as_long_as_it_took_and_not_for_long() {
    let seconds = Duration::from_secs;
    let longest = LONGEST_GATHERING;
    assert_eq!([0, 2, 600].map(|took| rest(seconds(took))), [GATHERING, seconds(2), longest]);
}

#[test]
fn a_tenant_that_leaves_is_not_looked_through() {
    let garbage = Garbage::default();
    let [one, two] = ["one", "two"].map(|name| name.parse::<Tenant>().unwrap());
    garbage.leaves(&one);
    for tenant in [&one, &two] {
        garbage.left_by(tenant);
    }
    let all = BTreeSet::from([one.clone(), two.clone()]);
    assert_eq!(garbage.staying(all), BTreeSet::from([two.clone()]));
    assert!(!garbage.comes(&one));
    assert_eq!(garbage.take(), [(two, Extent::Purged)]);
    garbage.has_left(&one);
    assert!(garbage.take().is_empty(), "another one is called like that");
    garbage.left_by(&one);
    assert_eq!(garbage.take(), [(one, Extent::Purged)]);
}

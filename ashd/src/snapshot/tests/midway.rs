//! Looking at points beside whoever collects: what is merely about to go is no damage.

use std::collections::HashSet;
use std::process::Command;
use std::time::Instant;

use uuid::Uuid;

use super::arriving::name_of;
use super::collected::without_old;
use super::*;

/// Tells the child where its sweep stops for ever.
const HALF_WAY: &str = "ASH_TEST_HALF_SWEPT";

/// Starts the test below again, with a sweep that stops before the index forgets what goes, and
/// with one that stops behind that.
#[test]
fn what_is_about_to_go_is_no_damage() {
    if !cfg!(feature = "faults") {
        println!("SKIP: this is built without the feature faults");
        return;
    }
    for point in ["collect.moved", "collect.forgotten"] {
        let mut child = Command::new(std::env::current_exe().unwrap());
        child.args(["--exact", "snapshot::tests::midway::child", "--nocapture"]);
        child.env(HALF_WAY, point).env("ASH_FAULT", format!("{point}:stall"));
        let output = child.output().unwrap();
        let said = [&output.stdout, &output.stderr].map(|said| String::from_utf8_lossy(said));
        let has_run = output.status.success() && said[0].contains("1 passed");
        assert!(has_run, "{point}: {}", said.join("\n"));
    }
}

/// No test of its own: see above.
#[test]
fn child() {
    let Ok(point) = std::env::var(HALF_WAY) else { return };
    let (place, _, [_, root]) = without_old();
    let size = |pack: &PathBuf| fs::metadata(pack).unwrap().len();
    let goes = place.packs().into_iter().max_by_key(size).unwrap();
    let (before, name) = (known(&place), name_of(&goes));
    let (collector, going) = place.decide(&[root]);
    let vault = place.vault.clone();
    // It ends with this process.
    std::thread::spawn(move || drop(vault.sweep(going, &collector)));
    let is_half_way = || match point.as_str() {
        "collect.moved" => known(&place).iter().any(|known| !before.contains(known)),
        _ => !known(&place).contains(&name),
    };
    let began = Instant::now();
    // What is moved has its name before the index knows of it.
    while place.packs().len() == before.len() || !is_half_way() {
        assert!(began.elapsed() < Duration::from_secs(60), "it has never come to {point}");
        std::thread::yield_now();
    }
    for deep in [false, true] {
        assert_no_damage(&place, &place.survey(&[root], deep));
    }
    assert!(goes.exists());
    assert_same(&place.live(), &place.restore(root, "back"));
}

fn known(place: &Place) -> HashSet<Uuid> {
    let known = place.vault.index().known().unwrap();
    known.into_iter().map(|(name, _)| name).collect()
}

fn assert_no_damage(place: &Place, survey: &Survey) {
    assert!(survey.damaged.is_empty() && survey.packs.is_empty(), "{survey:?}");
    assert!(survey.chunks > 0 && !place.vault.set_right(survey).unwrap(), "{survey:?}");
    assert_eq!(place.vault.damaged(), 0);
}

#[test]
fn what_goes_while_somebody_looks_is_no_damage() {
    for deep in [false, true] {
        let (place, _, [_, root]) = without_old();
        let (collector, going) = place.decide(&[root]);
        let survey = place.vault.survey(deep, || {
            let collected = place.vault.sweep(going, &collector).unwrap().unwrap();
            assert!(collected.bytes > 1_900_000, "{collected:?}");
            Ok::<_, SnapshotError>(vec![root])
        });
        assert_no_damage(&place, &survey.unwrap());
    }
}

#[test]
fn nothing_goes_of_what_somebody_looks_at() {
    let (place, _, [first, second]) = without_old();
    let collector = place.vault.gate.begin(Duration::ZERO).unwrap();
    let survey = place.vault.survey(true, || {
        // It was asked for before, and somebody has removed it.
        let points = || Ok::<_, SnapshotError>(vec![second]);
        assert!(place.decide_with(&collector, points).is_none());
        Ok::<_, SnapshotError>(vec![first, second])
    });
    assert_no_damage(&place, &survey.unwrap());
}

/// Else somebody who looks again and again would put it off for ever.
#[test]
fn whoever_has_looked_does_not_put_it_off() {
    let (place, _, [_, root]) = without_old();
    let points = || {
        assert_no_damage(&place, &place.survey(&[root], true));
        Ok::<_, SnapshotError>(vec![root])
    };
    let collected = place.vault.collect(&AT_ONCE, points).unwrap().unwrap();
    assert!(collected.bytes > 1_900_000, "{collected:?}");
}

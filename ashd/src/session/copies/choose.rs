//! Which points of a session are put into the object store, what each says of the others, and which is
//! taken from there.

use super::NotCopied;
use crate::domain::{Point, PointId};
use crate::objects::ManifestName;

/// Which points are to be put there, in this order: those that are wanted, and those with a name that are
/// not there, as behind a backup. What nobody has put there in this generation begins with the newest,
/// which an import takes: it must not find an older one alone.
pub(super) fn to_put<'a>(
    all: &'a [Point],
    wanted: &[Point],
    (names, generation): (&[ManifestName], u32),
) -> Vec<&'a Point> {
    let is_there = |point: &Point| names.iter().any(|name| name.point == point.id);
    let is_wanted = |point: &&Point| {
        let is_listed = wanted.iter().any(|wanted| wanted.id == point.id);
        is_listed || point.name.is_some() && !is_there(point)
    };
    let is_first = names.iter().all(|name| name.generation != generation);
    // Newest first.
    let (newest, older) = match all.split_first() {
        Some((newest, older)) if is_first => (Some(newest), older),
        _ => (None, all),
    };
    newest.into_iter().chain(older.iter().rev().filter(is_wanted)).collect()
}

/// The other points up to one that have a name.
pub(super) fn named(all: &[Point], point: &Point) -> Vec<PointId> {
    let has_name = |other: &&Point| other.name.is_some() && other.id != point.id;
    let named = all.iter().filter(has_name).filter(|other| other.seq <= point.seq);
    named.map(|other| other.id).collect()
}

/// Sees to it that nobody has put a point there in a later generation: what else is there is not for whoever
/// had the session before to judge.
///
/// # Errors
/// [`NotCopied::Lost`].
pub(super) fn still_ours(names: &[ManifestName], generation: u32) -> Result<(), NotCopied> {
    match names.iter().all(|name| name.generation <= generation) {
        true => Ok(()),
        false => Err(NotCopied::Lost),
    }
}

/// The manifest of a point, of the newest owner who put it there.
pub(in crate::session) fn of_point(names: &[ManifestName], point: PointId) -> Option<ManifestName> {
    names.iter().filter(|name| name.point == point).max().copied()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The point of this event; an even one has a name.
    fn point(seq: u64) -> Point {
        let name = seq.is_multiple_of(2).then(|| format!("n{seq}").parse().unwrap());
        Point { name, ..Point::example(seq) }
    }

    fn there(generation: u32, seq: u64) -> ManifestName {
        ManifestName { generation, seq, at: 0, point: point(seq).id }
    }

    fn order(wanted: &[u64], names: &[ManifestName], generation: u32) -> Vec<u64> {
        let all: Vec<Point> = (1..=5).rev().map(point).collect();
        let wanted: Vec<Point> = wanted.iter().copied().map(point).collect();
        to_put(&all, &wanted, (names, generation)).iter().map(|point| point.seq).collect()
    }

    #[test]
    fn the_newest_comes_last_but_for_the_first_time() {
        let names = [there(1, 1), there(1, 2)];
        assert_eq!(order(&[4, 5], &names, 1), [4, 5]);
        assert_eq!(order(&[4, 5], &names, 2), [5, 4]);
        assert_eq!(order(&[], &[there(1, 2), there(1, 4)], 2), [5]);
        assert_eq!(order(&[2, 4, 5], &[], 1), [5, 2, 4]);
    }

    #[test]
    fn what_has_a_name_and_is_not_there_is_put_there() {
        assert_eq!(order(&[5], &[there(1, 4)], 1), [2, 5]);
        assert_eq!(order(&[], &[there(1, 4), there(2, 1)], 2), [2]);
    }

    #[test]
    fn only_who_comes_later_has_taken_it() {
        let names = [there(1, 9), there(2, 1)];
        let is_ours = |generation| still_ours(&names, generation).is_ok();
        assert_eq!([1, 2, 3].map(is_ours), [false, true, true]);
        assert!(still_ours(&[], 0).is_ok());
    }

    #[test]
    fn a_point_says_which_others_have_a_name() {
        let all: Vec<Point> = (1..=5).rev().map(point).collect();
        let of = |seq| named(&all, &point(seq));
        assert_eq!(of(5), [point(4).id, point(2).id]);
        assert_eq!(of(4), [point(2).id]);
        assert_eq!(of(2), []);
    }
}

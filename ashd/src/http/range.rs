//! Which part of a file a request wants.

use http::header::{HeaderName, HeaderValue, IF_MATCH, IF_NONE_MATCH, IF_RANGE, RANGE};
use http::{HeaderMap, Method};

use super::tags;

/// What to answer with.
#[derive(Debug, Eq, PartialEq)]
pub(super) enum Part {
    /// All of it.
    Whole,
    /// The bytes from the first number to before the second.
    Bytes(u64, u64),
    /// Nothing of it: no byte that is wanted is there.
    Outside,
    /// Nothing of it: the client has it.
    Unchanged,
    /// Nothing of it: it is not what the client takes it for.
    Changed,
}

/// Reads what the headers want of a file with this size and this ETag, in the order of
/// RFC 9110, section 13.2.2. Several ranges, and what is no range of bytes, are the whole file, as it
/// allows; only GET has ranges (section 14.2).
pub(super) fn wanted(method: &Method, headers: &HeaderMap, size: u64, etag: &str) -> Part {
    let named = |field: HeaderName, same: &dyn Fn(&str) -> bool| {
        let tags = tags::listed(headers, &field)?;
        Some(tags.iter().any(|tag| *tag == "*" || same(tag)))
    };
    if named(IF_MATCH, &|tag| tags::is_same(tag, etag)) == Some(false) {
        return Part::Changed;
    }
    if named(IF_NONE_MATCH, &|tag| tags::opaque(tag) == tags::opaque(etag)) == Some(true) {
        return Part::Unchanged;
    }
    if method != Method::GET {
        return Part::Whole;
    }
    let is_same = |value: &HeaderValue| value.to_str().is_ok_and(|tag| tags::is_same(tag, etag));
    if headers.get(IF_RANGE).is_some_and(|value| !is_same(value)) {
        return Part::Whole;
    }
    let mut ranges = headers.get_all(RANGE).iter();
    match (ranges.next().and_then(|range| range.to_str().ok()), ranges.next()) {
        (Some(range), None) => one(range, size).unwrap_or(Part::Whole),
        _ => Part::Whole,
    }
}

fn one(range: &str, size: u64) -> Option<Part> {
    let (unit, range) = range.split_once('=')?;
    let (first, last) = range.trim().split_once('-')?;
    if !unit.trim().eq_ignore_ascii_case("bytes") {
        return None;
    }
    let (start, end) = match (number(first), number(last)) {
        (Some(first), Some(last)) if first <= last => (first, last.saturating_add(1).min(size)),
        (Some(first), None) if last.is_empty() => (first, size),
        (None, Some(count)) if first.is_empty() => (size.saturating_sub(count), size),
        _ => return None,
    };
    Some(if start < end { Part::Bytes(start, end) } else { Part::Outside })
}

/// A number of digits only; one that is too large is as good as the largest.
fn number(text: &str) -> Option<u64> {
    let digits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    digits.then(|| text.parse().unwrap_or(u64::MAX))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn part(pairs: &[(HeaderName, &str)], size: u64) -> Part {
        part_of("\"t\"", pairs, size)
    }

    fn part_of(etag: &str, pairs: &[(HeaderName, &str)], size: u64) -> Part {
        let pairs = pairs.iter().map(|(name, value)| (name.clone(), value.parse().unwrap()));
        wanted(&Method::GET, &pairs.collect(), size, etag)
    }

    #[test]
    fn one_range_is_taken() {
        for (range, size, expected) in [
            ("bytes=0-0", 10, Part::Bytes(0, 1)),
            ("bytes=2-", 10, Part::Bytes(2, 10)),
            ("bytes=-3", 10, Part::Bytes(7, 10)),
            ("bytes=-30", 10, Part::Bytes(0, 10)),
            ("bytes=5-99999999999999999999999", 10, Part::Bytes(5, 10)),
            ("bytes=10-", 10, Part::Outside),
            ("bytes=-0", 10, Part::Outside),
            ("bytes=0-", 0, Part::Outside),
            ("bytes=0-1,3-4", 10, Part::Whole),
            ("bytes=4-3", 10, Part::Whole),
            ("bytes=+1-3", 10, Part::Whole),
            ("bytes=-", 10, Part::Whole),
            ("lines=1-2", 10, Part::Whole),
            ("x", 10, Part::Whole),
        ] {
            assert_eq!(part(&[(RANGE, range)], size), expected, "{range}");
        }
    }

    #[test]
    fn conditions_come_first() {
        let range = (RANGE, "bytes=1-2");
        for (condition, expected) in [
            ((IF_MATCH, "\"a\", \"t\""), Part::Bytes(1, 3)),
            ((IF_MATCH, "*"), Part::Bytes(1, 3)),
            ((IF_MATCH, "\"old\""), Part::Changed),
            ((IF_MATCH, "W/\"t\""), Part::Changed),
            ((IF_NONE_MATCH, "\"a\", W/\"t\""), Part::Unchanged),
            ((IF_NONE_MATCH, "*"), Part::Unchanged),
            ((IF_NONE_MATCH, "\"a\""), Part::Bytes(1, 3)),
            ((IF_RANGE, "\"t\""), Part::Bytes(1, 3)),
            ((IF_RANGE, "W/\"t\""), Part::Whole),
            ((IF_RANGE, "\"old\""), Part::Whole),
        ] {
            assert_eq!(part(&[condition.clone(), range.clone()], 10), expected, "{condition:?}");
        }
    }

    /// What a client has of it may be of another one.
    #[test]
    fn a_weak_tag_joins_nothing() {
        for (condition, expected) in [
            ((IF_MATCH, "W/\"t\""), Part::Changed),
            ((IF_MATCH, "\"t\""), Part::Changed),
            ((IF_MATCH, "*"), Part::Bytes(1, 3)),
            ((IF_NONE_MATCH, "W/\"t\""), Part::Unchanged),
            ((IF_NONE_MATCH, "\"t\""), Part::Unchanged),
            ((IF_NONE_MATCH, "\"a\""), Part::Bytes(1, 3)),
            ((IF_RANGE, "W/\"t\""), Part::Whole),
            ((IF_RANGE, "\"t\""), Part::Whole),
        ] {
            let both = [condition.clone(), (RANGE, "bytes=1-2")];
            assert_eq!(part_of("W/\"t\"", &both, 10), expected, "{condition:?}");
        }
    }

    #[test]
    fn the_head_of_a_part_is_that_of_the_whole() {
        let headers = [(RANGE, "bytes=1-2".parse().unwrap())].into_iter().collect();
        assert_eq!(wanted(&Method::HEAD, &headers, 10, "\"t\""), Part::Whole);
    }

    proptest! {
        #[test]
        fn any_range_lies_in_the_file(range in "bytes=[-0-9, ]{0,24}", size: u64) {
            if let Part::Bytes(start, end) = part(&[(RANGE, &range)], size) {
                prop_assert!(start < end && end <= size);
            }
        }
    }
}

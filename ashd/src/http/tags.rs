//! Entity tags that a request names (RFC 9110, section 8.8.3).

use http::HeaderMap;
use http::header::HeaderName;

use crate::session::files::Tag;

/// What a weak one begins with.
const WEAK: &str = "W/";

/// A tag as it is written.
pub(super) fn text(Tag { opaque, weak }: &Tag) -> String {
    format!("{}\"{opaque}\"", if *weak { WEAK } else { "" })
}

/// The tags of a header field, as they are written, or `*`; `None`: there is no such field. What cannot
/// be read is a tag that nothing has.
pub(super) fn listed<'a>(headers: &'a HeaderMap, field: &HeaderName) -> Option<Vec<&'a str>> {
    let lists = headers.get_all(field).iter().map(|value| value.to_str().unwrap_or_default());
    headers
        .contains_key(field)
        .then(|| lists.flat_map(|list| list.split(',')).map(str::trim).collect())
}

/// A tag as it is compared where a weak one counts as well (section 8.8.3.2).
pub(super) fn opaque(tag: &str) -> &str {
    tag.strip_prefix(WEAK).unwrap_or(tag)
}

/// Whether two tags are the same where a weak one is like no other.
pub(super) fn is_same(one: &str, other: &str) -> bool {
    one == other && !one.starts_with(WEAK)
}

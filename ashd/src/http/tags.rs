//! Entity tags that a request names (RFC 9110, section 8.8.3).

use http::HeaderMap;
use http::header::HeaderName;

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
    tag.strip_prefix("W/").unwrap_or(tag)
}

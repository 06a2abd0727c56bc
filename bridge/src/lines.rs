//! Bytes into lines, in bounded memory.

/// Collects what a peer writes until a line is complete.
///
/// Holds at most one incomplete line. One that grows over the limit is thrown away as it comes,
/// and only counted.
#[derive(Debug)]
pub struct Lines {
    limit: usize,
    partial: Vec<u8>,
    /// Bytes of the line that is being thrown away.
    discarded: Option<u64>,
}

/// What came out.
#[derive(Debug, Eq, PartialEq)]
pub enum Item<'a> {
    /// A line without its newline. Never empty.
    Line(&'a [u8]),
    /// A line over the limit ended; it had this many bytes.
    TooLong(u64),
}

/// Above this the buffer of a finished line is given back.
const KEEP_CAPACITY: usize = 64 * 1024;

impl Lines {
    /// Accepts lines of up to `limit` bytes.
    pub fn new(limit: usize) -> Lines {
        Lines { limit, partial: Vec::new(), discarded: None }
    }

    /// Takes the next bytes, and hands every line that they complete to `each`, in order.
    pub fn push(&mut self, mut bytes: &[u8], mut each: impl FnMut(Item<'_>)) {
        while let Some(end) = memchr::memchr(b'\n', bytes) {
            self.complete(&bytes[..end], &mut each);
            bytes = &bytes[end + 1..];
        }
        self.keep(bytes);
    }

    /// The stream ended: hands over what came without a newline.
    pub fn finish(&mut self, each: impl FnMut(Item<'_>)) {
        self.complete(&[], each);
    }

    fn complete(&mut self, rest: &[u8], mut each: impl FnMut(Item<'_>)) {
        if self.discarded.is_none() && self.partial.is_empty() && rest.len() <= self.limit {
            if !rest.is_empty() {
                each(Item::Line(rest));
            }
            return;
        }
        self.keep(rest);
        match self.discarded.take() {
            Some(length) => each(Item::TooLong(length)),
            None => each(Item::Line(&self.partial)),
        }
        self.forget();
    }

    fn keep(&mut self, bytes: &[u8]) {
        if let Some(length) = &mut self.discarded {
            *length += bytes.len() as u64;
        } else if self.partial.len() + bytes.len() > self.limit {
            self.discarded = Some((self.partial.len() + bytes.len()) as u64);
            self.partial = Vec::new();
        } else {
            self.partial.extend_from_slice(bytes);
        }
    }

    fn forget(&mut self) {
        self.partial.clear();
        self.partial.shrink_to(KEEP_CAPACITY);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[derive(Debug, Eq, PartialEq)]
    enum Owned {
        Line(Vec<u8>),
        TooLong(u64),
    }

    fn own(item: Item<'_>) -> Owned {
        match item {
            Item::Line(line) => Owned::Line(line.to_vec()),
            Item::TooLong(length) => Owned::TooLong(length),
        }
    }

    /// What the splitter must say, computed from the whole input at once.
    fn expected(input: &[u8], limit: usize) -> Vec<Owned> {
        let lines = input.split(|byte| *byte == b'\n').filter(|line| !line.is_empty());
        lines
            .map(|line| match line.len() > limit {
                true => Owned::TooLong(line.len() as u64),
                false => Owned::Line(line.to_vec()),
            })
            .collect()
    }

    proptest! {
        #[test]
        fn cuts_do_not_matter(
            input in proptest::collection::vec(prop_oneof![Just(b'\n'), Just(b'a'), any::<u8>()], 0..400),
            cuts in proptest::collection::vec(1usize..60, 1..60),
            limit in 1usize..40,
        ) {
            let mut lines = Lines::new(limit);
            let mut seen = Vec::new();
            let mut rest = input.as_slice();
            for cut in cuts.iter().cycle() {
                let (now, later) = rest.split_at((*cut).min(rest.len()));
                lines.push(now, |item| seen.push(own(item)));
                prop_assert!(lines.partial.len() <= limit);
                rest = later;
                if rest.is_empty() { break }
            }
            lines.finish(|item| seen.push(own(item)));
            prop_assert_eq!(seen, expected(&input, limit));
        }
    }

    #[test]
    fn a_flood_without_newline_is_only_counted() {
        let mut lines = Lines::new(1000);
        for _ in 0..10_000 {
            lines.push(&[b'x'; 1024], |item| panic!("{item:?}"));
        }
        assert!(lines.partial.capacity() <= KEEP_CAPACITY);
        let mut seen = Vec::new();
        lines.push(b"\nnext\n", |item| seen.push(own(item)));
        assert_eq!(seen, [Owned::TooLong(10_240_000), Owned::Line(b"next".to_vec())]);
    }
}

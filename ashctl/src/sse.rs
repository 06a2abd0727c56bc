//! Server-sent events, from bytes cut anywhere.

/// Most bytes of one line and of one event's data; more is not a stream of ours.
const MOST: usize = 256 << 20;

/// One event.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Event {
    /// The id in force: its own, or the newest before it. Empty before the first.
    pub id: String,
    /// Its name; empty when it has none.
    pub name: String,
    /// Its data, lines joined by `\n`.
    pub data: String,
}

/// A line or an event without end.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
#[error("the stream has an event of more than 256 MiB")]
pub struct TooLong;

/// Turns pieces of a stream into events. Lines end with LF, CR or CR LF; comments and unknown
/// fields are skipped; bytes that are not UTF-8 become U+FFFD; an event without data is none.
#[derive(Debug, Default)]
pub struct Parser {
    line: Vec<u8>,
    /// The last byte ended a line as CR, so that a LF belongs to it.
    after_cr: bool,
    event: Event,
    has_data: bool,
}

impl Parser {
    /// Takes the next piece and returns the events that it completes.
    ///
    /// # Errors
    /// [`TooLong`]; the parser is of no use then.
    pub fn push(&mut self, mut piece: &[u8]) -> Result<Vec<Event>, TooLong> {
        let mut events = Vec::new();
        if self.after_cr && !piece.is_empty() {
            self.after_cr = false;
            piece = piece.strip_prefix(b"\n").unwrap_or(piece);
        }
        while let Some(end) = piece.iter().position(|byte| matches!(byte, b'\n' | b'\r')) {
            self.extend(&piece[..end])?;
            events.extend(self.end_line());
            let (ending, rest) = piece[end..].split_at(1);
            piece = rest;
            if ending == b"\r" {
                self.after_cr = piece.is_empty();
                piece = piece.strip_prefix(b"\n").unwrap_or(piece);
            }
        }
        self.extend(piece)?;
        Ok(events)
    }

    fn extend(&mut self, bytes: &[u8]) -> Result<(), TooLong> {
        if self.line.len() + self.event.data.len() + bytes.len() > MOST {
            return Err(TooLong);
        }
        self.line.extend_from_slice(bytes);
        Ok(())
    }

    fn end_line(&mut self) -> Option<Event> {
        if self.line.is_empty() {
            return self.end_event();
        }
        let line = String::from_utf8_lossy(&self.line).into_owned();
        self.line.clear();
        let (field, value) = line.split_once(':').unwrap_or((&line, ""));
        let value = value.strip_prefix(' ').unwrap_or(value);
        match field {
            "data" => self.add_data(value),
            "event" => self.event.name = value.into(),
            "id" if !value.contains('\0') => self.event.id = value.into(),
            _ => {}
        }
        None
    }

    fn add_data(&mut self, value: &str) {
        if self.has_data {
            self.event.data.push('\n');
        }
        self.has_data = true;
        self.event.data.push_str(value);
    }

    fn end_event(&mut self) -> Option<Event> {
        let next = Event { id: self.event.id.clone(), ..Event::default() };
        let event = std::mem::replace(&mut self.event, next);
        std::mem::take(&mut self.has_data).then_some(event)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn event(id: &str, name: &str, data: &str) -> Event {
        Event { id: id.into(), name: name.into(), data: data.into() }
    }

    fn parsed<'a>(pieces: impl IntoIterator<Item = &'a [u8]>) -> Vec<Event> {
        let mut parser = Parser::default();
        pieces.into_iter().flat_map(|piece| parser.push(piece).unwrap()).collect()
    }

    #[test]
    fn our_frames_are_read() {
        let stream = b"id: 3.0\nevent: session_start\ndata: {}\n\n: ping\n\n\
                       id: 3.1\nevent: done\ndata: {\"a\":1}\n\nevent: cut";
        assert_eq!(
            parsed([&stream[..]]),
            [event("3.0", "session_start", "{}"), event("3.1", "done", "{\"a\":1}")]
        );
    }

    #[test]
    fn the_finer_rules_hold() {
        for (stream, want) in [
            ("data\n\n", vec![event("", "", "")]),
            ("data:x\ndata: y\n\n", vec![event("", "", "x\ny")]),
            ("data:  x\r\n\r\n", vec![event("", "", " x")]),
            ("data: x\r\rdata: y\n\r\n", vec![event("", "", "x"), event("", "", "y")]),
            ("event: lost\n\ndata: x\n\n", vec![event("", "", "x")]),
            ("id: 1\n\ndata: x\n\n", vec![event("1", "", "x")]),
            ("retry: 5\nfoo: bar\n\n", vec![]),
        ] {
            assert_eq!(parsed([stream.as_bytes()]), want, "{stream:?}");
        }
        assert_eq!(parsed([&b"data: \xff\n\n"[..]]), [event("", "", "\u{fffd}")]);
    }

    proptest! {
        #[test]
        fn cuts_do_not_matter(
            lines in proptest::collection::vec(
                "(id|event|data|:|x)?(: ?)?[a-z\u{e9}\u{1f600}]{0,6}(\n|\r|\r\n|\n\n|\r\n\r\n)", 0..20
            ),
            cuts in proptest::collection::vec(any::<prop::sample::Index>(), 0..20),
        ) {
            let stream = lines.concat().into_bytes();
            let mut cuts: Vec<usize> =
                cuts.iter().map(|cut| cut.index(stream.len() + 1)).collect();
            cuts.extend([0, stream.len()]);
            cuts.sort_unstable();
            let pieces = cuts.windows(2).map(|cut| &stream[cut[0]..cut[1]]);
            prop_assert_eq!(parsed(pieces), parsed([&stream[..]]));
        }

        #[test]
        fn what_is_written_is_read(
            frames in proptest::collection::vec(("[0-9]{1,4}", "[a-z_]{1,8}", "[^\r\n]{0,30}"), 0..9)
        ) {
            let write = |(id, name, data): &(String, String, String)| {
                format!("id: {id}\nevent: {name}\ndata: {data}\n\n")
            };
            let stream: String = frames.iter().map(write).collect();
            let want: Vec<_> = frames.iter().map(|(id, name, data)| event(id, name, data)).collect();
            prop_assert_eq!(parsed([stream.as_bytes()]), want);
        }
    }
}

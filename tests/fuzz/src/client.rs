//! What agents wrote and `ashctl` reads.

use ashctl::sse::{Event, Parser};
use ashctl::text::Neutral;

/// The first byte says how the rest is cut into pieces: the events are the same however.
pub fn sse(data: &[u8]) {
    let Some((cut, stream)) = data.split_first() else { return };
    assert_eq!(events(stream, usize::from(*cut) + 1), events(stream, usize::MAX));
}

fn events(stream: &[u8], size: usize) -> Vec<Event> {
    let mut parser = Parser::default();
    let push = |piece| parser.push(piece).expect("short enough");
    stream.chunks(size.min(stream.len()).max(1)).flat_map(push).collect()
}

/// Whatever comes, in two pieces: nothing is left that a terminal obeys, and text that it does
/// not obey is left alone.
pub fn text(data: &[u8]) {
    let Some((cut, bytes)) = data.split_first() else { return };
    let (first, second) = bytes.split_at(usize::from(*cut).min(bytes.len()));
    let mut stream = Neutral::default();
    let shown = stream.push(first) + &stream.push(second);
    let obeyed = |each: char| each.is_control() && each != '\n' && each != '\t';
    assert!(!shown.contains(obeyed));
    if bytes.iter().all(|byte| matches!(byte, b' '..=b'~' | b'\n' | b'\t')) {
        assert_eq!(shown.as_bytes(), bytes);
    }
}

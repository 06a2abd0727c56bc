//! What the kernel says of how long processes had to wait for what they need: pressure stall information,
//! see Documentation/accounting/psi.rst of the kernel.

use std::fs::File;
use std::io::{self, Read};
use std::path::Path;

/// Where it has a file for each of `cpu`, `memory` and `io`, of the whole machine.
pub const DIR: &str = "/proc/pressure";

/// The most bytes of a file that are looked at. They have some 150.
const LARGEST: u64 = 4096;

/// How much of the last ten seconds was waited, in percent. `None` where the kernel does not say: older
/// ones have no second line for processors.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Stalled {
    /// By some processes.
    pub some: Option<f64>,
    /// By all that had something to do.
    pub full: Option<f64>,
}

/// What a file says. One that cannot be read says nothing.
pub fn read(path: &Path) -> Stalled {
    let text = beginning(path).unwrap_or_default();
    Stalled { some: average(&text, "some"), full: average(&text, "full") }
}

fn beginning(path: &Path) -> io::Result<String> {
    let mut text = String::new();
    File::open(path)?.take(LARGEST).read_to_string(&mut text)?;
    Ok(text)
}

/// The average of the last ten seconds, in the line that begins with a word.
fn average(text: &str, word: &str) -> Option<f64> {
    let numbers = text.lines().find_map(|line| line.strip_prefix(word)?.strip_prefix(' '))?;
    let average = numbers.split(' ').find_map(|number| number.strip_prefix("avg10="))?;
    average.parse().ok().filter(|percent: &f64| percent.is_finite())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const SOME: &str = "some avg10=12.34 avg60=0.00 avg300=0.00 total=1\n";
    const FULL: &str = "full avg10=99.00 avg60=0.00 avg300=0.00 total=1\n";

    #[test]
    fn averages_are_read() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("cpu");
        assert_eq!(read(&path), Stalled::default(), "there is none");
        for (text, some, full) in [
            (format!("{SOME}{FULL}"), Some(12.34), Some(99.0)),
            (SOME.to_owned(), Some(12.34), None),
            (FULL.to_owned(), None, Some(99.0)),
            ("some avg10=0.00 avg60=1.00".to_owned(), Some(0.0), None),
            ("some total=1\nfull avg60=1.00\n".to_owned(), None, None),
            ("some avg10=x\nfullavg10=1.00\n".to_owned(), None, None),
            ("some avg10=inf\nfull avg10=NaN\n".to_owned(), None, None),
            (String::new(), None, None),
        ] {
            std::fs::write(&path, &text).unwrap();
            assert_eq!(read(&path), Stalled { some, full }, "{text:?}");
        }
    }

    proptest! {
        #[test]
        fn whatever_a_file_says_is_read_or_not(text in "(some |full |avg10=|[0-9.]{0,4}|\n| ){0,20}") {
            for (word, begins) in [("some", "some "), ("full", "full ")] {
                if let Some(percent) = average(&text, word) {
                    prop_assert!(text.contains(begins) && text.contains("avg10=") && percent >= 0.0);
                }
            }
        }
    }
}

//! How values are written.

use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::Secret;
use crate::domain::PermissionMode;

/// A value as it was written.
#[derive(Clone, Debug)]
pub(super) enum Written {
    /// In an environment variable, or as a default: all kinds look the same there.
    Plain(String),
    /// A string of a file.
    Text(String),
    /// A number, `true` or `false` of a file.
    Bare(String),
    /// An array of strings of a file.
    List(Vec<String>),
}

impl Written {
    fn text(&self) -> Result<&str, String> {
        match self {
            Written::Plain(text) => Ok(text),
            Written::Text(text) if !text.is_empty() => Ok(text),
            Written::Text(_) => Err("is empty; leave the key out to have the default".into()),
            _ => Err("must be written as a string, in quotes".into()),
        }
    }

    fn bare(&self, what: &str) -> Result<&str, String> {
        match self {
            Written::Plain(text) | Written::Bare(text) => Ok(text),
            _ => Err(format!("must be {what}, without quotes")),
        }
    }

    fn list(&self, separator: char) -> Result<Vec<String>, String> {
        match self {
            Written::List(items) => Ok(items.clone()),
            Written::Plain(text) => {
                let items = text.split(separator).map(str::trim).filter(|item| !item.is_empty());
                Ok(items.map(str::to_owned).collect())
            }
            _ => Err("must be an array of strings, like [\"a\", \"b\"]".into()),
        }
    }
}

/// What can stand behind a key.
pub(super) trait Value: Sized {
    /// Reads it, or says what it must look like.
    fn read(written: &Written) -> Result<Self, String>;

    /// As it would be written, for people; none when it is not set. Never a secret.
    fn shown(&self) -> Option<String>;
}

macro_rules! number {
    ($($T:ty),*) => {$(
        impl Value for $T {
            fn read(written: &Written) -> Result<Self, String> {
                let digits = written.bare("a whole number")?.replace('_', "");
                let range = || format!("must be a whole number from 0 to {}", <$T>::MAX);
                digits.parse().map_err(|_| range())
            }

            fn shown(&self) -> Option<String> {
                Some(self.to_string())
            }
        }
    )*};
}
number!(u16, u32);

impl Value for f64 {
    fn read(written: &Written) -> Result<Self, String> {
        let number = written.bare("a number")?.parse::<f64>().ok();
        let positive = number.filter(|number| number.is_finite() && *number > 0.0);
        positive.ok_or_else(|| "must be a number above 0, like 1.5".into())
    }

    fn shown(&self) -> Option<String> {
        Some(self.to_string())
    }
}

impl Value for bool {
    fn read(written: &Written) -> Result<Self, String> {
        match (written, written.bare("true or false")?) {
            (_, "true") | (Written::Plain(_), "1") => Ok(true),
            (_, "false") | (Written::Plain(_), "0") => Ok(false),
            _ => Err("must be true or false".into()),
        }
    }

    fn shown(&self) -> Option<String> {
        Some(self.to_string())
    }
}

/// Units of sizes, in bytes, and of times, in milliseconds; growing.
const SIZES: [(&str, u64); 5] =
    [("", 1), ("KiB", 1 << 10), ("MiB", 1 << 20), ("GiB", 1 << 30), ("TiB", 1 << 40)];
const TIMES: [(&str, u64); 5] =
    [("ms", 1), ("s", 1_000), ("min", 60_000), ("h", 3_600_000), ("d", 86_400_000)];

/// A number of bytes.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub struct Size(pub u64);

impl Value for Size {
    fn read(written: &Written) -> Result<Self, String> {
        let bytes = scaled(written, &SIZES);
        bytes.map(Size).ok_or_else(|| "must be a size like 512MiB or 2GiB".into())
    }

    fn shown(&self) -> Option<String> {
        Some(largest(self.0, &SIZES))
    }
}

impl Value for Duration {
    fn read(written: &Written) -> Result<Self, String> {
        let ms = scaled(written, &TIMES);
        ms.map(Duration::from_millis).ok_or_else(|| "must be a time like 500ms, 10s or 5min".into())
    }

    fn shown(&self) -> Option<String> {
        Some(largest(u64::try_from(self.as_millis()).unwrap_or(u64::MAX), &TIMES))
    }
}

/// The number in the largest unit in which it is whole.
fn largest(number: u64, units: &[(&str, u64)]) -> String {
    let fits = |factor: u64| number.is_multiple_of(factor) && number >= factor;
    let (unit, factor) = units.iter().rfind(|(_, factor)| fits(*factor)).unwrap_or(&units[0]);
    format!("{}{unit}", number / factor)
}

/// A whole number with one of these units.
fn scaled(written: &Written, units: &[(&str, u64)]) -> Option<u64> {
    let (Written::Plain(text) | Written::Text(text) | Written::Bare(text)) = written else {
        return None;
    };
    let end = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (digits, unit) = text.split_at(end);
    let (_, factor) = units.iter().find(|(name, _)| *name == unit.trim())?;
    digits.parse::<u64>().ok()?.checked_mul(*factor)
}

impl Value for String {
    fn read(written: &Written) -> Result<Self, String> {
        written.text().map(str::to_owned)
    }

    fn shown(&self) -> Option<String> {
        Some(self.clone())
    }
}

impl Value for Secret {
    fn read(written: &Written) -> Result<Self, String> {
        let text = written.text()?;
        if text.bytes().all(|b| b.is_ascii_graphic()) {
            Ok(Secret::new(text.to_owned()))
        } else {
            Err("must be one word of visible ASCII characters".into())
        }
    }

    fn shown(&self) -> Option<String> {
        Some("[hidden]".into())
    }
}

impl Value for IpAddr {
    fn read(written: &Written) -> Result<Self, String> {
        let text = written.text()?;
        let text = if text == "localhost" { "127.0.0.1" } else { text };
        text.parse().map_err(|_| "must be an IP address like 127.0.0.1, 0.0.0.0 or ::1".into())
    }

    fn shown(&self) -> Option<String> {
        Some(self.to_string())
    }
}

impl Value for PathBuf {
    fn read(written: &Written) -> Result<Self, String> {
        let path = Path::new(written.text()?);
        match written {
            Written::Plain(text) if text.is_empty() => Ok(PathBuf::new()),
            // Who sets a variable knows the working directory.
            Written::Plain(_) => std::path::absolute(path).map_err(|e| e.to_string()),
            _ if path.is_absolute() => Ok(path.to_owned()),
            _ => Err("must be an absolute path, beginning with /".into()),
        }
    }

    fn shown(&self) -> Option<String> {
        Some(self.display().to_string())
    }
}

impl Value for PermissionMode {
    fn read(written: &Written) -> Result<Self, String> {
        let word = written.text()?;
        serde_json::from_value(word.into()).map_err(|_| {
            "must be one of default, acceptEdits, plan, dontAsk, bypassPermissions".into()
        })
    }

    fn shown(&self) -> Option<String> {
        serde_json::to_value(self).ok()?.as_str().map(str::to_owned)
    }
}

impl Value for Vec<String> {
    fn read(written: &Written) -> Result<Self, String> {
        written.list(',')
    }

    fn shown(&self) -> Option<String> {
        Some(format!("{self:?}"))
    }
}

impl Value for Vec<PathBuf> {
    fn read(written: &Written) -> Result<Self, String> {
        let one = |item: String| match written {
            Written::Plain(_) => PathBuf::read(&Written::Plain(item)),
            _ => PathBuf::read(&Written::Text(item)),
        };
        written.list(':')?.into_iter().map(one).collect()
    }

    fn shown(&self) -> Option<String> {
        Some(format!("{self:?}"))
    }
}

/// Absent only by default.
impl<T: Value> Value for Option<T> {
    fn read(written: &Written) -> Result<Self, String> {
        match written {
            Written::Plain(text) if text.is_empty() => Ok(None),
            _ => T::read(written).map(Some),
        }
    }

    fn shown(&self) -> Option<String> {
        self.as_ref().and_then(T::shown)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text<T: Value>(text: &str) -> Result<T, String> {
        T::read(&Written::Text(text.into()))
    }

    #[test]
    fn sizes_and_times_have_units() {
        assert_eq!(text("2GiB"), Ok(Size(2 << 30)));
        assert_eq!(text("512 MiB"), Ok(Size(512 << 20)));
        assert_eq!(Size::read(&Written::Bare("4096".into())), Ok(Size(4096)));
        assert_eq!(text("5min"), Ok(Duration::from_secs(300)));
        assert_eq!(text("90d"), Ok(Duration::from_secs(90 * 86_400)));
        for bad in ["", "GiB", "2GB", "-1", "1.5GiB", "99999999999TiB"] {
            assert!(text::<Size>(bad).is_err(), "{bad}");
        }
        for bad in ["10", "", "s", "10 years"] {
            assert!(text::<Duration>(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn values_are_shown_as_they_would_be_written() {
        for (bytes, want) in [(0, "0"), (4096, "4KiB"), (3 << 29, "1536MiB"), (1 << 30, "1GiB")] {
            assert_eq!(Size(bytes).shown().as_deref(), Some(want));
        }
        assert_eq!(Duration::from_secs(900).shown().as_deref(), Some("15min"));
        assert_eq!(Duration::from_millis(1500).shown().as_deref(), Some("1500ms"));
        assert_eq!(Secret::new("sk-1".into()).shown().as_deref(), Some("[hidden]"));
        assert_eq!(PermissionMode::BypassPermissions.shown().as_deref(), Some("bypassPermissions"));
        assert_eq!(vec!["a".to_owned()].shown().as_deref(), Some("[\"a\"]"));
        assert_eq!(None::<u16>.shown(), None);
    }

    #[test]
    fn files_are_stricter_than_variables() {
        let plain = |text: &str| Written::Plain(text.into());
        assert_eq!(u16::read(&plain("4100")), Ok(4100));
        assert!(text::<u16>("4100").unwrap_err().contains("without quotes"));
        assert_eq!(bool::read(&plain("1")), Ok(true));
        assert!(bool::read(&Written::Bare("1".into())).is_err());
        assert!(PathBuf::read(&plain("relative")).unwrap().is_absolute());
        assert!(text::<PathBuf>("relative").is_err());
        let roots = Vec::<PathBuf>::read(&plain("/a:/b"));
        assert_eq!(roots, Ok(vec!["/a".into(), "/b".into()]));
    }
}

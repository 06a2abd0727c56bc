//! Object paths of agents and sessions, both ways.
//!
//! A path element may hold only `A-Z a-z 0-9 _`. In the name of an agent every other byte, and
//! `_` itself, is written `_` and two hexadecimal digits; in the id of a session `-` is written
//! `_`.

use std::fmt::Write;

use zbus::zvariant::OwnedObjectPath;

const AGENTS: &str = "/org/ashd/Ash1/agents/";
const SESSIONS: &str = "/org/ashd/Ash1/sessions/";
const HYPHENS: [usize; 4] = [8, 13, 18, 23];

/// The object of the agent with this name; `None` for the empty name.
pub fn of_agent(name: &str) -> Option<OwnedObjectPath> {
    let mut path = String::from(AGENTS);
    for byte in name.bytes() {
        if byte.is_ascii_alphanumeric() {
            path.push(byte.into());
        } else {
            // Writing to a String cannot fail.
            let _ = write!(path, "_{byte:02x}");
        }
    }
    OwnedObjectPath::try_from(path).ok()
}

/// The name of the agent whose object this is; `None` for paths that [`of_agent`] does not write.
pub fn to_agent(path: &str) -> Option<String> {
    let mut rest = path.strip_prefix(AGENTS)?.bytes();
    let mut name = Vec::new();
    while let Some(byte) = rest.next() {
        name.push(match byte {
            b'_' => unescaped(rest.next()?, rest.next()?)?,
            plain if plain.is_ascii_alphanumeric() => plain,
            _ => return None,
        });
    }
    let name = String::from_utf8(name).ok()?;
    (!name.is_empty()).then_some(name)
}

/// The byte that two hexadecimal digits stand for, if it is one that has to be escaped.
fn unescaped(high: u8, low: u8) -> Option<u8> {
    let digit = |byte: u8| match byte {
        b'0'..=b'9' => Some(byte - b'0'),
        b'a'..=b'f' => Some(byte - b'a' + 10),
        _ => None,
    };
    let byte = digit(high)? << 4 | digit(low)?;
    (!byte.is_ascii_alphanumeric()).then_some(byte)
}

/// The object of the session with this id; `None` unless the id is a hyphenated lower-case UUID.
pub fn of_session(id: &str) -> Option<OwnedObjectPath> {
    is_uuid(id, b'-').then(|| format!("{SESSIONS}{}", id.replace('-', "_")))?.try_into().ok()
}

/// The id of the session whose object this is.
pub fn to_session(path: &str) -> Option<String> {
    let element = path.strip_prefix(SESSIONS)?;
    is_uuid(element, b'_').then(|| element.replace('_', "-"))
}

fn is_uuid(text: &str, separator: u8) -> bool {
    let fits = |(at, byte): (usize, u8)| match HYPHENS.contains(&at) {
        true => byte == separator,
        false => matches!(byte, b'0'..=b'9' | b'a'..=b'f'),
    };
    text.len() == 36 && text.bytes().enumerate().all(fits)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const ID: &str = "3f0c6a52-0c3e-4b1e-9a57-2f1f0e9d8c7b";

    #[test]
    fn agents_are_escaped() {
        let path = of_agent("hello-world_2").unwrap();
        assert_eq!(path.as_str(), "/org/ashd/Ash1/agents/hello_2dworld_5f2");
        assert_eq!(to_agent(path.as_str()).as_deref(), Some("hello-world_2"));
        assert_eq!(of_agent(""), None);
        for bad in ["", "_", "_2", "_2D", "_61", "a/b", "a-b"] {
            assert_eq!(to_agent(&format!("{AGENTS}{bad}")), None, "{bad:?}");
        }
    }

    #[test]
    fn sessions_are_uuids() {
        let path = of_session(ID).unwrap();
        assert_eq!(path.as_str(), "/org/ashd/Ash1/sessions/3f0c6a52_0c3e_4b1e_9a57_2f1f0e9d8c7b");
        assert_eq!(to_session(path.as_str()).as_deref(), Some(ID));
        for bad in ["", "x", &ID.to_uppercase(), &ID.replace('-', "_"), &ID[1..]] {
            assert_eq!(of_session(bad), None, "{bad:?}");
        }
        assert_eq!(to_session(AGENTS), None);
    }

    proptest! {
        #[test]
        fn every_name_round_trips(name in ".{1,40}") {
            let path = of_agent(&name).unwrap();
            prop_assert_eq!(to_agent(path.as_str()), Some(name));
        }

        #[test]
        fn what_is_read_is_what_would_be_written(element in "[0-9a-z_]{1,12}") {
            let path = format!("{AGENTS}{element}");
            if let Some(name) = to_agent(&path) {
                let written = of_agent(&name).unwrap();
                prop_assert_eq!(written.as_str(), path);
            }
        }
    }
}

//! Text that must not be seen.

use std::fmt;

use zeroize::Zeroizing;

/// A key or a URL with a password. It cannot be printed by accident, and leaves no copy behind in
/// memory when it is dropped.
#[derive(Clone, Eq, PartialEq)]
pub struct Secret(Zeroizing<String>);

impl Secret {
    /// Takes the text over.
    pub fn new(text: String) -> Self {
        Secret(Zeroizing::new(text))
    }

    /// The text, for the one place that needs it.
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("[secret]")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn is_never_printed() {
        let secret = Secret::new("sk-very-secret".into());
        let shown = format!("{secret:?} {secret:#?} {:?}", Some((&secret, 1)));
        assert!(!shown.contains("very"), "{shown}");
    }
}

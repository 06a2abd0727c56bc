//! Which environment variables may be set from outside.
//!
//! The sandbox's program start, the CLI's way to the model and the key it is given hang on
//! variables of their own; whoever could set those would be past the broker or inside the loader
//! of a program that has not dropped its rights yet.

use std::collections::BTreeMap;

use super::check::Unfit;

/// Families of names that belong to the loader, the runtime of the CLI, or to us.
const RESERVED_PREFIXES: [&str; 5] = ["LD_", "BUN_", "ASH_", "ANTHROPIC_", "CLAUDE_"];

/// Single names that every sandbox gets from us, or that make a program load something.
const RESERVED: [&str; 12] = [
    "DISABLE_AUTOUPDATER",
    "GCONV_PATH",
    "GLIBC_TUNABLES",
    "HOME",
    "LOGNAME",
    "MCP_CONNECTION_NONBLOCKING",
    "NODE_OPTIONS",
    "NODE_PATH",
    "PATH",
    "PWD",
    "SHELL",
    "USER",
];

/// The most bytes of one `NAME=value` that Linux passes to a program, its NUL included.
const LONGEST: usize = 128 * 1024;

/// The most bytes of an environment that is set from outside: Linux passes 2 MiB to a program, its
/// arguments included, and what runs in the sandbox adds to them.
const LARGEST: usize = 1024 * 1024;

/// Bytes that a variable takes besides its name and its value: `=`, NUL, and a pointer.
const EACH: usize = 10;

/// Checks an environment that is set from outside; in complaints it is called `place`.
///
/// # Errors
/// The first variable that may not be set, or that there is too much.
pub fn check_all(place: &str, env: &BTreeMap<String, String>) -> Result<(), Unfit> {
    env.iter().try_for_each(|(name, value)| {
        check(name, value).map_err(|reason| Unfit::value(place, reason))
    })?;
    check_size(place, env)
}

/// Checks that an environment can be passed to programs.
///
/// # Errors
/// When there is too much.
pub fn check_size(place: &str, env: &BTreeMap<String, String>) -> Result<(), Unfit> {
    let bytes: usize = env.iter().map(|(name, value)| name.len() + value.len() + EACH).sum();
    if bytes > LARGEST {
        return Err(Unfit::value(place, format!("must not be longer than {LARGEST} bytes in all")));
    }
    Ok(())
}

/// Whether a variable may be set from outside.
///
/// # Errors
/// A sentence that names the variable and never its value.
fn check(name: &str, value: &str) -> Result<(), String> {
    if !is_name(name) {
        return Err(format!(
            "{:?} is not a variable name (letters, digits and _, not beginning with a digit)",
            name.chars().take(64).collect::<String>()
        ));
    }
    if RESERVED.contains(&name) || RESERVED_PREFIXES.iter().any(|own| name.starts_with(own)) {
        return Err(format!("{name} is reserved and cannot be set from outside"));
    }
    if value.contains('\0') {
        return Err(format!("{name} must not contain NUL"));
    }
    if name.len() + 1 + value.len() >= LONGEST {
        return Err(format!("{name} is longer than {LONGEST} bytes"));
    }
    Ok(())
}

fn is_name(name: &str) -> bool {
    let plain = name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_');
    plain && name.len() <= 255 && name.bytes().next().is_some_and(|first| !first.is_ascii_digit())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ordinary_variables_pass() {
        for name in
            ["A", "_x", "DATABASE_URL", "LDAP_URL", "PATHS", "HOMEPAGE", "LANG", "AWS_REGION"]
        {
            assert_eq!(check(name, "v=\n ü"), Ok(()), "{name}");
        }
    }

    #[test]
    fn reserved_names_do_not() {
        for name in [
            "LD_PRELOAD",
            "LD_",
            "NODE_OPTIONS",
            "BUN_CONFIG_FILE",
            "ASH_SESSION_ID",
            "ANTHROPIC_BASE_URL",
            "ANTHROPIC_API_KEY",
            "CLAUDE_CODE_EAGER_FLUSH",
            "PATH",
            "HOME",
            "GLIBC_TUNABLES",
        ] {
            let refusal = check(name, "secret").unwrap_err();
            assert!(refusal.contains(name) && !refusal.contains("secret"), "{refusal}");
        }
    }

    #[test]
    fn odd_names_and_values_do_not() {
        for name in ["", "1A", "A-B", "A B", "A=B", "Ä", "A\0", &"x".repeat(256)] {
            assert!(check(name, "").is_err(), "{name:?}");
        }
        assert!(check("A", "a\0b").is_err());
        assert!(check("A", &"x".repeat(LONGEST - 3)).is_ok());
        assert!(check("A", &"x".repeat(LONGEST - 2)).is_err());
    }

    #[test]
    fn all_variables_together_are_bounded() {
        let env = |length| (0..10).map(|n| (format!("V{n}"), "x".repeat(length))).collect();
        let fits = LARGEST / 10 - 2 - EACH;
        assert_eq!(check_all("env", &env(fits)), Ok(()));
        let said = check_all("env", &env(fits + 1)).unwrap_err().to_string();
        assert_eq!(said, "env: must not be longer than 1048576 bytes in all");
    }

    #[test]
    fn a_refusal_is_bounded() {
        assert!(check(&"-".repeat(1_000_000), "").unwrap_err().len() < 300);
    }
}

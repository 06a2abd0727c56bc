//! One declaration of all keys: types, defaults, variables, documentation.

use super::Config;
use super::value::Written;

/// A section, for the reference.
pub(super) struct Section {
    /// Its name.
    pub(super) name: &'static str,
    /// What it is about, one line for each line of the comment.
    pub(super) about: &'static str,
    /// Its keys.
    pub(super) keys: &'static [Key],
}

/// A key, and what can be done with its value.
pub(super) struct Key {
    /// `section.name`.
    pub(super) path: &'static str,
    /// What it means, one line for each line of the comment.
    pub(super) about: &'static str,
    /// As it would stand in an environment variable; empty when there is none, or when it follows
    /// from other values.
    pub(super) default: &'static str,
    /// What else is to be known of it.
    pub(super) traits: Traits,
    /// Reads a value into its place.
    pub(super) set: fn(&mut Config, &Written) -> Result<(), String>,
    /// Its value as it would be written; none when it is not set.
    pub(super) show: fn(&Config) -> Option<String>,
    /// Whether both have the same value.
    pub(super) same: fn(&Config, &Config) -> bool,
    /// Takes the value of the second over into the first.
    pub(super) adopt: fn(&mut Config, &Config),
}

/// What most keys do without.
pub(super) struct Traits {
    /// Environment variables that override the files; of two that are set the first counts.
    pub(super) env: &'static [&'static str],
    /// The unit that the variable's number is in.
    pub(super) unit: &'static str,
    /// How the default is described when it follows from other values.
    pub(super) derived: &'static str,
    /// Taken over by a reload, without restart.
    pub(super) live: bool,
    /// Refused in files, which are read by more people than they should be.
    pub(super) env_only: bool,
}

impl Traits {
    /// None of it.
    pub(super) const NONE: Traits =
        Traits { env: &[], unit: "", derived: "", live: false, env_only: false };
}

/// Every key.
pub(super) fn keys() -> impl Iterator<Item = &'static Key> {
    super::SECTIONS.iter().flat_map(|section| section.keys)
}

/// Declares the sections of the configuration. From each key come a field of its section's struct,
/// the way to set it, and its line in the reference.
macro_rules! sections {
    ($(
        $(#[doc = $about:literal])+
        $section:ident: $Section:ident {$(
            $(#[doc = $doc:literal])+
            $key:ident: $T:ty = $default:literal { $($traits:tt)* }
        )*}
    )*) => {
        $(
            $(#[doc = $about])+
            #[derive(Clone, Debug, PartialEq)]
            pub struct $Section {
                $($(#[doc = $doc])+ pub $key: $T,)*
            }
        )*

        /// The configuration, checked.
        #[derive(Clone, Debug, PartialEq)]
        pub struct Config {
            $($(#[doc = $about])+ pub $section: $Section,)*
        }

        /// A key that is set nowhere has its default.
        fn defaults() -> Result<Config, String> {
            Ok(Config {
                $($section: $Section {
                    $($key: Value::read(&Written::Plain($default.into()))?,)*
                },)*
            })
        }

        /// Every section.
        pub(super) const SECTIONS: &[Section] = &[
            $(Section {
                name: stringify!($section),
                about: concat!($($about, "\n"),+),
                keys: &[
                    $(Key {
                        path: concat!(stringify!($section), ".", stringify!($key)),
                        about: concat!($($doc, "\n"),+),
                        default: $default,
                        traits: Traits { $($traits)* ..Traits::NONE },
                        set: |config, written| {
                            config.$section.$key = Value::read(written)?;
                            Ok(())
                        },
                        show: |config| config.$section.$key.shown(),
                        same: |one, other| one.$section.$key == other.$section.$key,
                        adopt: |one, other| {
                            one.$section.$key.clone_from(&other.$section.$key);
                        },
                    },)*
                ],
            },)*
        ];
    };
}
pub(super) use sections;

//! The rules.

/// A module of `ashd` and what it may name besides itself, what lies in it, and the [`LEAVES`].
pub struct Layer {
    /// Path from the crate's root.
    pub module: &'static str,
    /// Paths of the modules below it; what lies in them is included.
    pub sees: &'static [&'static str],
}

/// The modules of `ashd`, from the top to the bottom. `app` sees all of it and nothing sees `app`;
/// the two edges never meet; what a sandbox is made of does not know the whole, nor more of the
/// other parts than is said here.
pub const LAYERS: &[Layer] = &[
    Layer {
        module: "app",
        sees: &[
            "http", "bus", "session", "sandbox", "snapshot", "objects", "backup", "store", "tree",
        ],
    },
    Layer { module: "http", sees: &["session"] },
    Layer { module: "bus", sees: &["session"] },
    Layer {
        module: "session",
        sees: &["sandbox", "snapshot", "objects", "backup", "store", "tree"],
    },
    Layer { module: "sandbox", sees: &["tree"] },
    Layer { module: "sandbox::launcher", sees: &["sandbox::children"] },
    Layer {
        module: "sandbox::broker",
        sees: &["sandbox::children", "sandbox::socket", "sandbox::stand_in", "tree"],
    },
    Layer { module: "sandbox::plan", sees: &["sandbox::limits", "sandbox::lease"] },
    Layer { module: "sandbox::cgroup", sees: &["sandbox::limits"] },
    Layer { module: "sandbox::link", sees: &[] },
    Layer { module: "sandbox::children", sees: &[] },
    Layer { module: "sandbox::socket", sees: &[] },
    Layer { module: "sandbox::stand_in", sees: &[] },
    Layer { module: "sandbox::limits", sees: &[] },
    Layer { module: "sandbox::lease", sees: &[] },
    Layer { module: "snapshot", sees: &["tree"] },
    Layer { module: "objects", sees: &[] },
    Layer { module: "backup", sees: &["tree"] },
    Layer { module: "store", sees: &[] },
    Layer { module: "tree", sees: &[] },
    Layer { module: "auth", sees: &[] },
    Layer { module: "config", sees: &[] },
    Layer { module: "fault", sees: &[] },
    Layer { module: "telemetry", sees: &[] },
    Layer { module: "domain", sees: &[] },
];

/// Modules that every layer may name. Among each other they know only [`WORDS`].
pub const LEAVES: &[&str] = &["auth", "config", "fault", "telemetry", "domain"];

/// The leaf that other leaves may name.
pub const WORDS: &str = "domain";

/// The only module that `main` may name.
pub const ROOT: &str = "app";

/// A crate and what it must not link, directly or through others.
pub struct Boundary {
    /// The crate's name.
    pub name: &'static str,
    /// Names of crates that may not be among its dependencies.
    pub never: &'static [&'static str],
    /// Why, as a sentence without a full stop.
    pub because: &'static str,
}

/// What crates must not link.
pub const BOUNDARIES: &[Boundary] = &[
    Boundary {
        name: "ash-wire",
        never: &["ash-sys", "rustix", "tokio"],
        because: "words do no I/O",
    },
    Boundary {
        name: "ash-bridge",
        never: &["tokio", "zbus", "hyper", "rusqlite", "ashd", "ash-peeled"],
        because: "the bridge is one small copy per sandbox, without an async runtime",
    },
    Boundary {
        name: "ash-launcher",
        never: &["tokio", "zbus", "hyper", "rusqlite", "ashd", "ash-bridge", "ash-peeled"],
        because: "the launcher holds the most privilege and stays small and single-threaded",
    },
    Boundary {
        name: "ash-broker",
        never: &["zbus", "rusqlite", "ashd"],
        because: "the broker holds the model key and knows nothing else",
    },
    Boundary {
        name: "ash-dbus",
        never: &["ash-wire", "rusqlite", "hyper", "ashd"],
        because: "the contract is words, not the daemon",
    },
    Boundary {
        name: "ashctl",
        never: &["ash-wire", "rusqlite", "hyper", "ashd"],
        because: "the client holds no code of the daemon",
    },
    Boundary {
        name: "ashd",
        never: &["ash-modelapi", "ash-peeled", "ash-stub"],
        because: "stand-ins are for tests",
    },
];

/// The directory of the only crate with unsafe code.
pub const UNSAFE_CRATE: &str = "bridge/sys";

/// The most lines of a source file that are not tests.
pub const MAX_LINES: usize = 500;

/// Words that no text of the repository contains, and why. Put together here, so that this file
/// does not contain them either.
pub const NEVER_SAID: &[(&str, &str)] = &[
    (concat!("registry.", "npmjs"), "which registry is used is the reader's choice"),
    (concat!("index.", "crates.io"), "which registry is used is the reader's choice"),
    (concat!("static.", "crates.io"), "which registry is used is the reader's choice"),
    (concat!("pypi.", "org"), "which registry is used is the reader's choice"),
    (concat!("arti", "factory"), "which registry is used is the reader's choice"),
    (concat!("..", "/shared"), "the repository stands alone"),
];

/// A directory of some machine, which no text names.
pub const MACHINE_PATH: &str = concat!("/", "work");

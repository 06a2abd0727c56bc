//! What operators search the journal for: `journalctl MESSAGE_ID=…` (systemd.journal-fields(7)).
//! Explanations are in the catalog, which `journalctl -x` shows.

/// A session was made.
pub const SESSION_CREATED: &str = "670679b4f06e4d739e1e1f4b07b1e679";

/// The status of a session changed.
pub const SESSION_CHANGED: &str = "ecd087da537d483d8415f0d0d697b69a";

/// A turn came to an end that is none.
pub const TURN_FAILED: &str = "2d7c3a6e48514e9794c5ac8ca9836775";

/// A sandbox ended that was not told to.
pub const SANDBOX_LOST: &str = "ef7d7e8afd164cc481c1ad51f8f4f940";

/// A sandbox could not be made.
pub const NO_SANDBOX: &str = "2e228bd946e743acb4026871310ea597";

/// A line of a session's log: the CLI's standard error, or what ashd has to say about it.
pub const SANDBOX_SAID: &str = "7605f59ba5fd482f88fbfca3d3a36dc6";

/// Lines of a session's log that are not in the journal because there were too many.
pub const LINES_LEFT_OUT: &str = "f0df2d51415d4a48b06792830975af63";

/// A version of an agent was deployed.
pub const AGENT_DEPLOYED: &str = "1040a6c121a54c9ea8712399199055d1";

/// An agent was deleted.
pub const AGENT_DELETED: &str = "5c1c6f4a0e0b4d6d9f0a1f5b7d2c8e13";

/// Nothing of a session is left.
pub const SESSION_PURGED: &str = "b02d7e6c9a414f0e8d5b3c1f6a7e9d24";

/// An API key was made.
pub const KEY_MADE: &str = "e7a3b1d95c2f48f6a0d4c6b8f1e2a735";

/// An API key was revoked.
pub const KEY_REVOKED: &str = "1f6d8c2b7e5a4930b9c4d7e8a1f3b546";

/// Somebody was refused.
pub const REFUSED: &str = "94c5e2a7d1b64f38a6f0e9d3c7b8a157";

/// What is kept of a session is damaged.
pub const CHECKPOINT_DAMAGED: &str = "c38f0b6e4d7a4125b1e9f2d6a5c7e868";

/// The broker went away without being told to.
pub const BROKER_LOST: &str = "919b3c8b8e6b4d2298b372fbbe3151fb";

/// There is no broker, and turns fail.
pub const NO_BROKER: &str = "5ce0e8baf5ff456b855c49950dcd66a3";

/// What happens in a session cannot be stored.
pub const NOT_STORED: &str = "e0cdf76a2a004bc395ff3ac9fc3ebf64";

/// There is no D-Bus interface.
pub const NO_BUS: &str = "8621c135505d496eb5bad6582bdca87b";

/// This machine lacks a layer of protection.
pub const LAYER_MISSING: &str = "350c512214a64be892eeb798ea9815a6";

/// The configuration was read again.
pub const RELOADED: &str = "65861bfa2dbe4a018ef09cecf7a5dead";

/// The configuration was not read again.
pub const NOT_RELOADED: &str = "5e92729c48434e1da9dcfa1547ff2159";

/// The object store does not take what is saved.
pub const NOT_COPIED: &str = "b7c1d7b7c5a14f3c9f0c6a1f6a0d2e51";

/// Another machine goes on with a session.
pub const SESSION_LOST: &str = "3d9a1c58f0e24b6f8f3b1e9c4a7d6b02";

/// The daemon is up.
pub const UP: &str = "5efe25c9554b4c9c8509c4cae48d2857";

/// The daemon ends.
pub const ENDING: &str = "8ac31241d9b64b69932f086fd36e3149";

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    #[test]
    fn everything_is_explained_and_nothing_else() {
        let id = |text: &str| (text.len() == 32).then(|| text.to_owned());
        let here = include_str!("message.rs").lines();
        let ours: BTreeSet<_> = here.filter_map(|line| id(line.split('"').nth(1)?)).collect();
        let catalog = include_str!("../../../systemd/catalog/ash.catalog").lines();
        let explained: BTreeSet<_> =
            catalog.filter_map(|line| id(line.strip_prefix("-- ")?)).collect();
        assert_eq!(ours, explained);
        let page = include_str!("../../../docs/operating.md").lines();
        let listed: BTreeSet<_> =
            page.filter_map(|line| id(line.strip_suffix("` |")?.rsplit('`').next()?)).collect();
        assert_eq!(ours, listed);
        assert!(ours.len() > 10, "{ours:?}");
    }
}

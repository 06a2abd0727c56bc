//! The bridge's own steps of confinement, without those of some layers.
//!
//! The product has no switch for this. The programs of this crate stand in for it where a test
//! looks what one layer stops while another is off.

use anyhow::{Result, bail};
use ash_bridge::confine::{Layer, STEPS, Step};

/// Steps from which some were taken.
#[derive(Clone, Debug)]
pub struct Peeled(Vec<Step>);

impl Peeled {
    /// All steps of the bridge but those of these layers.
    pub fn without(layers: &[Layer]) -> Peeled {
        Peeled(STEPS.iter().filter(|step| !layers.contains(&step.layer)).copied().collect())
    }

    /// What is left, in the bridge's order.
    pub fn steps(&self) -> &[Step] {
        &self.0
    }
}

/// Layers by their names, with commas between them.
///
/// # Errors
/// At a name that is none.
pub fn layers(names: &str) -> Result<Vec<Layer>> {
    names.split(',').filter(|name| !name.is_empty()).map(layer).collect()
}

fn layer(name: &str) -> Result<Layer> {
    Ok(match name {
        "no_new_privs" => Layer::NoNewPrivs,
        "seccomp" => Layer::Syscalls,
        "capabilities" => Layer::Capabilities,
        "uid" => Layer::Identity,
        "landlock" => Layer::Files,
        _ => bail!("{name:?} is not a layer"),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_named_is_taken_away() {
        let peeled = Peeled::without(&layers("capabilities,no_new_privs").unwrap());
        let left: Vec<_> = peeled.steps().iter().map(|step| step.layer).collect();
        assert_eq!(left, [Layer::Syscalls, Layer::Identity, Layer::Files]);
        assert!(layers("").unwrap().is_empty());
        assert!(layers("seccomp,else").is_err());
    }
}

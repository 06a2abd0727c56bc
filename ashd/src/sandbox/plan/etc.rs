//! The made-up part of `/etc`.

use bytes::Bytes;
use sha2::{Digest, Sha256};

use super::{HOME, PlacedFile, Spec, hostname};

/// The files of `/etc` that every sandbox has.
pub(super) fn files(spec: &Spec) -> Vec<PlacedFile> {
    let (uid, name) = (spec.uids.agent, hostname(&spec.hostname));
    let file = |target: &str, text: String| PlacedFile {
        target: target.to_owned(),
        mode: 0o444,
        bytes: Bytes::from(text),
    };
    vec![
        file(
            "/etc/passwd",
            format!(
                "root:x:0:0:root:/:/usr/sbin/nologin\n\
                 agent:x:{uid}:{uid}:agent:{HOME}:/bin/bash\n\
                 nobody:x:65534:65534:nobody:/:/usr/sbin/nologin\n"
            ),
        ),
        file("/etc/group", format!("root:x:0:\nagent:x:{uid}:\nnogroup:x:65534:\n")),
        file(
            "/etc/hosts",
            format!("127.0.0.1 localhost\n::1 localhost ip6-localhost\n127.0.1.1 {name}\n"),
        ),
        file("/etc/hostname", format!("{name}\n")),
        file("/etc/nsswitch.conf", "passwd: files\ngroup: files\nhosts: files\n".to_owned()),
        // There is no network, so nobody to ask for names.
        file("/etc/resolv.conf", String::new()),
        file("/etc/machine-id", format!("{}\n", machine_id(spec))),
    ]
}

/// Stable for a sandbox, different between sandboxes, and nothing about the host.
fn machine_id(spec: &Spec) -> String {
    let digest = Sha256::digest(spec.sandbox.0.as_bytes());
    digest[..16].iter().map(|byte| format!("{byte:02x}")).collect()
}

//! What sandboxes are made of.

use super::super::finding::Finding;
use super::super::readings::Readings;
use super::version;
use crate::machine::runtime::PINNED;

/// The oldest bubblewrap.
const BWRAP: (u32, u32) = (0, 8);

pub(super) fn bubblewrap(readings: &Readings) -> Finding {
    let name = "bubblewrap";
    let bwrap = &readings.bwrap;
    let Some(said) = &bwrap.system else {
        let install = "install the package bubblewrap";
        return Finding::missing(name, "/usr/bin/bwrap is not there", install);
    };
    if version(said).is_none_or(|version| version < BWRAP) {
        let detail = format!("/usr/bin/bwrap says {said:?}; ash needs 0.8 or newer");
        return Finding::missing(name, detail, "install bubblewrap 0.8 or newer");
    }
    let copy = bwrap.copy.display();
    let renew = format!("install -m 0755 /usr/bin/bwrap {copy}");
    match bwrap.is_copy_current {
        Some(true) => Finding::ok(name, format!("{said}, our copy is the same")),
        Some(false) => {
            Finding::warn(name, format!("{copy} is another build than /usr/bin/bwrap"), renew)
        }
        None => Finding::warn(name, format!("{said}, but our copy {copy} is missing"), renew),
    }
}

/// What security modules forbid, they tie to a program's path; ours has a path of its own.
pub(super) fn security_modules(readings: &Readings) -> Finding {
    let name = "Security modules";
    let modules = &readings.modules;
    if modules.is_selinux_enforcing == Some(true) {
        return Finding::warn(
            name,
            "SELinux enforces, and ash has no policy of its own",
            "if sandboxes do not start, `ausearch -m avc -ts recent` names what was denied",
        );
    }
    let mut detail = match modules.list.as_str() {
        "" => "none that can be listed".to_owned(),
        list => list.to_owned(),
    };
    if modules.does_apparmor_restrict || modules.has_bwrap_profile {
        detail += "; AppArmor restricts /usr/bin/bwrap or user namespaces, which does not touch \
                   ash: its copy has another path and it makes no user namespaces";
    }
    Finding::ok(name, detail)
}

pub(super) fn user_namespaces(readings: &Readings) -> Finding {
    let policy = &readings.user_namespaces;
    let detail = match (policy.most, policy.are_for_everybody) {
        (None | Some(0), _) => "switched off",
        (_, true) => "for everybody",
        (_, false) => "for root only",
    };
    let detail = format!("{detail}; ash does not need them, and forbids them in sandboxes");
    Finding::ok("User namespaces", detail)
}

pub(super) fn runtime(readings: &Readings) -> Finding {
    let name = "CLI runtime";
    let runtime = &readings.runtime;
    let program = runtime.program.display();
    let version = runtime.version.as_deref();
    match runtime.is_executable {
        None => {
            let detail = format!("no Claude Code CLI at {program}");
            Finding::missing(name, detail, "run `ashctl runtime install`")
        }
        Some(false) => Finding::missing(
            name,
            format!("{program} is no program that everybody may execute"),
            format!("run `chmod 755 {program}`, or install it with `ashctl runtime install`"),
        ),
        Some(true) => match version {
            Some(version) if version == PINNED => Finding::ok(name, format!("version {version}")),
            Some(version) => Finding::warn(
                name,
                format!("version {version}; this ash is tried with {PINNED}"),
                format!("run `ashctl runtime install` and `ashctl runtime use {PINNED}`"),
            ),
            None => Finding::ok(name, format!("{program}, not one that ashctl installed")),
        },
    }
}

//! What the kernel says about itself.

use std::fs;
use std::path::Path;

use landlock::{
    ABI, Access, AccessFs, AccessNet, CompatLevel, Compatible, Ruleset, RulesetAttr, Scope,
};

use super::super::readings::{Cgroups, Modules, UserNamespaces};
use super::{first_line, line};
use crate::systemctl;

/// Where version 2 is mounted on a systemd host.
const CGROUP: &str = "/sys/fs/cgroup";

pub(super) async fn cgroups() -> Cgroups {
    let root = Path::new(CGROUP);
    let words = |text: String| text.split_whitespace().map(str::to_owned).collect::<Vec<_>>();
    let controllers = line(root.join("cgroup.controllers"));
    let show = ["show", "--property=ControlGroup", "--value", systemctl::SANDBOXES];
    let holder = first_line("systemctl", &show).await;
    let holder = holder.map(|path| root.join(path.trim_start_matches('/')));
    Cgroups {
        is_unified: controllers.is_some(),
        controllers: controllers.map(words).unwrap_or_default(),
        delegated: holder.and_then(|it| line(it.join("cgroup.controllers"))).map(words),
    }
}

/// The newest ABI of which the kernel knows everything. Makes rule sets and drops them.
pub(super) fn landlock() -> u8 {
    let known = [ABI::V1, ABI::V2, ABI::V3, ABI::V4, ABI::V5, ABI::V6];
    known.into_iter().take_while(|abi| has(*abi)).count() as u8
}

fn has(abi: ABI) -> bool {
    let rules = Ruleset::default()
        .set_compatibility(CompatLevel::HardRequirement)
        .handle_access(AccessFs::from_all(abi));
    let rules = match abi {
        ABI::V1 | ABI::V2 | ABI::V3 => rules,
        ABI::V4 | ABI::V5 => rules.and_then(|rules| rules.handle_access(AccessNet::from_all(abi))),
        _ => rules.and_then(|rules| rules.scope(Scope::from_all(abi))),
    };
    rules.and_then(Ruleset::create).is_ok()
}

pub(super) fn modules() -> Modules {
    let profiles = fs::read_dir("/etc/apparmor.d").into_iter().flatten().flatten();
    let mut names = profiles.filter_map(|entry| entry.file_name().into_string().ok());
    let restricts = "/proc/sys/kernel/apparmor_restrict_unprivileged_userns";
    Modules {
        list: line("/sys/kernel/security/lsm").unwrap_or_default(),
        does_apparmor_restrict: line(restricts).as_deref() == Some("1"),
        has_bwrap_profile: names.any(|name| name.starts_with("bwrap")),
        is_selinux_enforcing: line("/sys/fs/selinux/enforce").map(|state| state == "1"),
    }
}

pub(super) fn user_namespaces() -> UserNamespaces {
    let number = |path| line(path).and_then(|text| text.parse::<u64>().ok());
    let debian = number("/proc/sys/kernel/unprivileged_userns_clone");
    let ubuntu = number("/proc/sys/kernel/apparmor_restrict_unprivileged_userns");
    UserNamespaces {
        most: number("/proc/sys/user/max_user_namespaces"),
        are_for_everybody: debian != Some(0) && ubuntu.is_none_or(|restricted| restricted == 0),
    }
}

pub(super) fn vulnerabilities() -> Vec<(String, String)> {
    let directory = Path::new("/sys/devices/system/cpu/vulnerabilities");
    let entries = fs::read_dir(directory).into_iter().flatten().flatten();
    let mut all: Vec<_> = entries
        .filter_map(|entry| {
            let name = entry.file_name().into_string().ok()?;
            Some((name, line(entry.path())?))
        })
        .collect();
    all.sort_unstable();
    all
}

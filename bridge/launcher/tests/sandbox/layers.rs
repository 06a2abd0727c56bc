//! Attacks, again and again, with layers taken away.
//!
//! [`ATTACKS`] says which layers stop an attack, each of them alone. So it must succeed where none
//! of these is left, and nowhere else; that is tried with all layers, with all but each, with each
//! alone, and with none. A line of the table that says too much or too little fails one of these.
//!
//! Two layers cannot be taken away. The bridge ends a sandbox by signalling everything it sees,
//! which without the pid namespace would be the machine. bubblewrap itself sets no_new_privs; what
//! that stops is looked at outside of a sandbox.

use std::collections::BTreeMap;

use crate::peeled::{Host, status};
use Layer::{Capabilities, Cgroup, Landlock, Network, Root, Seccomp, Uid};

/// What can be taken away from a sandbox.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Layer {
    /// A uid for the bridge and one for the agent; without it, both are root.
    Uid,
    /// A root that holds nothing of the host's; without it, a directory of the host is mounted.
    Root,
    Landlock,
    Seccomp,
    /// Empty capability sets; without it, root has all.
    Capabilities,
    /// The network namespace.
    Network,
    /// The agent's cgroup, with its limits.
    Cgroup,
}

const LAYERS: [Layer; 7] = [Uid, Root, Landlock, Seccomp, Capabilities, Network, Cgroup];

/// An attack in `attempts.py`, and which layers stop it with which error.
type Attack = (&'static str, &'static [(Layer, &'static str)]);

const ATTACKS: [Attack; 20] = [
    ("reads_what_all_may_read", &[(Root, "ENOENT"), (Landlock, "EACCES")]),
    ("reads_what_is_root_s", &[(Root, "ENOENT"), (Landlock, "EACCES"), (Uid, "EACCES")]),
    (
        "reads_what_is_another_session_s",
        &[(Root, "ENOENT"), (Landlock, "EACCES"), (Uid, "EACCES"), (Capabilities, "EACCES")],
    ),
    ("plants_a_file_among_root_s", &[(Root, "ENOENT"), (Landlock, "EACCES"), (Uid, "EACCES")]),
    ("mounts", &[(Seccomp, "EPERM"), (Capabilities, "EPERM"), (Uid, "EPERM"), (Landlock, "EPERM")]),
    ("makes_a_mount_namespace", &[(Seccomp, "EPERM"), (Capabilities, "EPERM"), (Uid, "EPERM")]),
    ("makes_a_user_namespace", &[(Seccomp, "EPERM")]),
    ("makes_a_call_of_i386", &[(Seccomp, "SIGSYS")]),
    ("gives_up_randomised_addresses", &[(Seccomp, "EPERM")]),
    ("makes_a_device", &[(Seccomp, "EPERM"), (Capabilities, "EPERM"), (Uid, "EPERM")]),
    (
        "opens_a_packet_socket",
        &[(Seccomp, "EAFNOSUPPORT"), (Capabilities, "EPERM"), (Uid, "EPERM")],
    ),
    ("has_whoever_opens_its_file_wait", &[(Seccomp, "EPERM")]),
    ("becomes_another_session", &[(Capabilities, "EPERM"), (Uid, "EPERM")]),
    ("limits_the_bridge", &[(Seccomp, "EPERM"), (Uid, "EPERM")]),
    ("signals_the_bridge", &[(Landlock, "EPERM"), (Uid, "EPERM")]),
    ("looks_into_the_bridge", &[(Landlock, "EACCES"), (Uid, "EACCES")]),
    ("compares_itself_with_the_bridge", &[(Seccomp, "EPERM"), (Landlock, "EPERM"), (Uid, "EPERM")]),
    ("connects_to_the_host", &[(Network, "ECONNREFUSED")]),
    ("connects_to_the_host_by_a_name", &[(Network, "ECONNREFUSED"), (Landlock, "EPERM")]),
    ("starts_many_processes", &[(Cgroup, "EAGAIN")]),
];

/// What landlock stops only where it knows scopes.
const SCOPED: [&str; 2] = ["signals_the_bridge", "connects_to_the_host_by_a_name"];

/// The first version of landlock that knows scopes.
const SCOPES: u32 = 6;

/// Makes a sandbox with these layers, attacks from inside it, and checks what came of it.
fn check(host: &Host, on: &[Layer]) {
    let off: Vec<_> = LAYERS.into_iter().filter(|layer| !on.contains(layer)).collect();
    let found = host.attack(&off);
    let has_scopes = found["landlock_abi"].parse::<u32>().unwrap() >= SCOPES;
    for (attack, stopped_by) in ATTACKS.iter().filter(|(name, _)| host.permits(name)) {
        let works = |layer| layer != Landlock || has_scopes || !SCOPED.contains(attack);
        let stops = |layer| on.contains(&layer) && works(layer);
        let errors = stopped_by.iter().filter(|(layer, _)| stops(*layer)).map(|(_, error)| *error);
        let expected: Vec<_> = errors.collect();
        let got = found[*attack].as_str();
        match expected.as_slice() {
            [] => assert_eq!(got, "OK", "{attack} with {on:?}"),
            // The kernel asks them in an order of its own.
            some => assert!(some.contains(&got), "{attack} with {on:?}: {got}, not {some:?}"),
        }
    }
}

#[test]
fn all_layers_together_stop_every_attack() {
    let Some(host) = Host::new() else { return };
    check(&host, &LAYERS);
}

#[test]
fn without_one_layer_the_others_stop_what_they_are_for() {
    let Some(host) = Host::new() else { return };
    for left_out in LAYERS {
        let rest: Vec<_> = LAYERS.into_iter().filter(|layer| *layer != left_out).collect();
        check(&host, &rest);
    }
}

#[test]
fn each_layer_alone_stops_what_it_is_for() {
    let Some(host) = Host::new() else { return };
    for layer in LAYERS {
        assert!(ATTACKS.iter().any(|(_, by)| by.iter().any(|(stops, _)| *stops == layer)));
        check(&host, &[layer]);
    }
}

#[test]
fn without_any_layer_every_attack_succeeds() {
    let Some(host) = Host::new() else { return };
    check(&host, &[]);
}

/// Attacks whose success needs more than that no layer of ours is there.
#[test]
fn this_machine_permits_every_attack() {
    let Some(host) = Host::new() else { return };
    let names: Vec<_> = ATTACKS.into_iter().map(|(name, _)| name).collect();
    let left_out: Vec<_> = names.into_iter().filter(|name| !host.permits(name)).collect();
    if !left_out.is_empty() {
        println!("SKIP: the machine itself stops or cannot stop {left_out:?}");
    }
}

#[test]
fn no_new_privs_and_an_empty_bounding_set_each_disarm_setuid_programs() {
    let Some(host) = Host::new() else { return };
    let Some(program) = host.setuid_program() else { return };
    let run = |without: &str| status(&program.run(&format!("seccomp,landlock,{without}")));
    let agent = crate::machine::AGENT_UID.to_string();
    let none = "0000000000000000";
    let euid = |status: &BTreeMap<String, String>| {
        status["Uid"].split_whitespace().nth(1).unwrap().to_owned()
    };
    let armed = run("no_new_privs,capabilities");
    assert!(euid(&armed) == "0" && armed["CapEff"] != none, "{armed:?}");
    let not_new = run("capabilities");
    assert!(euid(&not_new) == agent && not_new["CapEff"] == none, "{not_new:?}");
    let not_able = run("no_new_privs");
    assert!(euid(&not_able) == "0" && not_able["CapEff"] == none, "{not_able:?}");
}

/// Every fault point: its name, and what has happened and what has not when it is passed.
pub const POINTS: &[(&str, &str)] = &[
    ("keeper.grouped", "a service has a group for its own processes; its main one is not in it"),
    ("keeper.settled", "the main process is where it stays; nobody listens"),
    ("keeper.bereft", "the process that serves has ended; there is no other"),
    ("listen.bound", "the launcher's socket has its name; nobody listens there"),
    ("listen.open", "the launcher listens; nobody has come"),
    ("client.greeted", "a client was told whom it talks to; it has not asked for anything"),
    ("launch.asked", "a request is there; nothing was done about it"),
    ("launch.checked", "a request is in order; no process was made for it"),
    ("launch.forked", "a process is in the bridge's group; it is not limited yet"),
    ("launch.prepared", "a process is limited; it is not bubblewrap yet"),
    ("launch.executed", "bubblewrap runs; whoever asked for it does not know"),
    ("launch.answered", "a sandbox is made, and whoever asked for it knows"),
];

/// Every fault point: its name, and what has happened and what has not when it is passed.
pub const POINTS: &[(&str, &str)] = &[
    ("bridge.begun", "the bridge has its descriptors and all rights; there is no spawner"),
    ("bridge.forked", "there is a spawner; the bridge has all rights"),
    ("bridge.confined", "the bridge has no rights any more; the spawner may not be ready"),
    ("bridge.ready", "both halves have no rights any more; nobody was listened to"),
    ("bridge.greeted", "a daemon has greeted; it was not answered"),
    ("spawner.begun", "the spawner is in the agent's group; it has all rights"),
    ("spawner.confined", "the spawner has no rights any more; the bridge does not know"),
    ("spawner.ready", "the bridge knows that the spawner waits for orders"),
    ("spawner.started", "a program runs; the spawner has not noted that it is its"),
    ("cli.ordered", "the spawner was told to start the CLI"),
    ("cli.ready", "the CLI has answered; nobody was told"),
];

"""Kills of anything of ours, under load, and what is left afterwards."""

import random

from harness.journey import journey

ROUNDS = 10


@journey()
def ten_random_kills_leave_nothing(ash):
    """Every turn ends or says why it did not; then there is what there was before."""
    seed = random.SystemRandom().randrange(1 << 32)
    print(f"seed {seed}", flush=True)
    dice = random.Random(seed)
    ash.await_up()
    # What the first session of an installation makes for all is there from then on.
    ash.delete(ash.create(), "?purge=true")
    before = ash.look()
    ids = [ash.create(), ash.create()]
    for round in range(ROUNDS):
        turns = [ash.send(id, f"round {round} [[count 100 20ms]]") for id in ids]
        for turn in turns:
            turn.until("session_start")
        victim = dice.choice(["ashd", "ash-broker", "ash-launcher", "bridge", "claude"])
        print(f"round {round}: {victim}", flush=True)
        ash.machine.do(f"kill -KILL $(pgrep -x {victim} | shuf -n1)")
        for turn in turns:
            turn.end()
            assert turn.errors() or turn.text(), turn.told()
            turn.check_history()
    for id in ids:
        assert ash.ask(id, "[[say alive]]") == "alive"
        ash.delete(id, "?purge=true")
    ash.check_left(before)

"""ash in a machine, as its users see it."""

import itertools
import json
import shlex

from .sse import check_ids, parse

MODEL = "http://127.0.0.1:4999"
URL = "http://127.0.0.1:4100"
UNITS = ["ashd", "ash-broker", "ash-sandboxes"]
AGENT = "hello"
PIDS = 100

MODEL_UNIT = """\
[Unit]
Description=A stand-in for the model API
Before=ashd.service

[Service]
ExecStart=/payload/bin/ash-modelapi --port 4999 --key stand-in --log /var/tmp/model.log

[Install]
WantedBy=multi-user.target
"""

CONFIG = f"""\
[model]
base_url = "{MODEL}"

[state]
reserve_disk = "64MiB"

[sandbox]
memory = "512MiB"
pids = {PIDS}
ready_timeout = "2min"
cli_timeout = "5min"
"""


def bash(command):
    """A directive that makes the model ask for a tool."""
    return f"[[tool Bash {json.dumps({'command': command, 'timeout': 600_000})}]]"


def counted(to):
    """What `[[count N]]` says."""
    return "".join(f"{n} " for n in range(1, to + 1))


def is_delta(frame):
    return frame.name.endswith("_delta") or frame.data.get("type") == "stream_event"


class Ash:
    """A machine with ash on it, and its HTTP API."""

    def __init__(self, machine):
        self.machine = machine
        self.key = ""
        self.turns = itertools.count(1)

    # What an administrator does.

    @staticmethod
    def apt(words):
        """A command that asks nothing."""
        return f"DEBIAN_FRONTEND=noninteractive apt-get -y -q -o Dpkg::Use-Pty=0 {words} 2>&1"

    def install(self, package="ashd.deb"):
        """Through apt, which finds no other package than this one."""
        return self.machine.do(self.apt(f"install /payload/packages/{package}"), limit=600)

    def set_up(self):
        """What is to be done once a package is there: what `ashctl doctor` asks for."""
        running = self.machine.run(f"systemctl is-active {' '.join(UNITS)}").out
        assert "active" not in running.split(), f"it was started by surprise: {running}"
        self.point_at_model()
        self.people()
        self.check_doctor(["CLI runtime", "Model key"])
        self.machine.write("/etc/credstore/ash-model-key", "stand-in", mode="0600")
        self.machine.do("ashctl runtime install --file /payload/claude", limit=600)
        self.check_doctor([])
        self.start()
        self.deploy()

    def point_at_model(self):
        """At the stand-in, which is there after a reboot, too."""
        self.machine.write("/etc/systemd/system/modelapi.service", MODEL_UNIT)
        self.machine.write("/etc/ash/ashd.toml.d/50-vm.toml", CONFIG)
        self.machine.do("systemctl daemon-reload; systemctl enable --now modelapi")

    def check_doctor(self, missing):
        """That this is missing, and nothing else, and that the exit code says so."""
        done = self.machine.run("ashctl doctor")
        lines = [line.split(maxsplit=1) for line in done.out.splitlines()]
        found = [line[1].split(":")[0] for line in lines if line[0] == "missing"]
        assert found == missing and done.code == (1 if missing else 0), done

    def start(self):
        self.machine.do("systemctl start ashd", limit=300)
        self.await_up()

    def people(self):
        """alice may run sessions, mallory may not."""
        self.machine.do("useradd -m -G ash alice; useradd -m mallory")

    def deploy(self):
        self.machine.write("/root/hello/CLAUDE.md", "Answer briefly.\n")
        self.machine.do(f"ashctl deploy /root/{AGENT}")
        self.key = self.machine.do("cat /var/lib/ash/initial-api-key").strip()

    def await_up(self):
        """Ready again, after whatever happened to it."""
        self.machine.until(f"curl -fsS {URL}/health && ashctl status", "ashd is up", limit=300)

    def pid(self, unit):
        """The main process of a unit."""
        pid = self.machine.do(f"systemctl show -P MainPID {unit}").strip()
        assert pid != "0", f"{unit} has no process"
        return int(pid)

    def kill(self, unit, signal="KILL"):
        """Signals the main process of a unit, and waits until it is another one."""
        pid = self.pid(unit)
        self.machine.do(f"kill -{signal} {pid}")
        now = f"$(systemctl show -P MainPID {unit})"
        self.machine.until(f"[ {now} -gt 0 ] && [ {now} != {pid} ]", f"a new {unit}")

    def inside(self, name):
        """The processes of sandboxes that have this name; they come and go."""
        found = self.machine.run(f"pgrep -x {name}").out.split()
        return sorted(map(int, found))

    def look(self):
        """A line for each process, mount, control group, socket, file, chunk and lease, when what was
        purged is collected, which happens behind its end."""
        purged = "/var/lib/ash/snapshots/store/default/purged"
        self.machine.until(f"! test -e {purged}", "what was purged is collected")
        return set(self.machine.do("python3 /payload/look.py").splitlines())

    def check_left(self, before, kinds=""):
        """That nothing is there which was not before, of these kinds if only some matter; sandboxes
        may be ending. What is gone is no matter: the system's own services come and go."""
        self.machine.write("/run/before", "\n".join(before) + "\n")
        now = f"python3 /payload/look.py | grep -E '^({kinds})' | sort -u"
        left = f"comm -13 <(sort -u /run/before) <({now}) | tee /run/left"
        try:
            self.machine.until(f"{left}; ! test -s /run/left", "nothing is left")
        finally:
            self.machine.run("rm /run/before /run/left")

    # What a client does.

    def call(self, method, path, body=None, status=None):
        """The answer of the HTTP API."""
        code, answer = self.ask_for(method, path, body)
        assert status is None or code == status, f"{method} {path}: {code} {answer}"
        assert status is not None or code < 300, f"{method} {path}: {code} {answer}"
        return answer

    def ask_for(self, method, path, body=None):
        """Status and answer, whatever they are."""
        out = self.machine.do(
            f"{self.curl(path)} -X {method} -w '\\n%{{http_code}}' -m 300" + self.body(body),
            input=json.dumps(body),
        )
        text, code = out.rsplit("\n", 1)
        return int(code), json.loads(text) if text.startswith("{") else text

    def curl(self, path, *headers):
        headers = [f"Authorization: Bearer {self.key}", "Content-Type: application/json", *headers]
        return " ".join(
            [
                "curl -sS",
                *(f"-H {shlex.quote(header)}" for header in headers),
                shlex.quote(URL + path),
            ]
        )

    @staticmethod
    def body(body):
        return " --data-binary @-" if body is not None else ""

    def create(self, agent=AGENT):
        return self.call("POST", "/api/sessions", {"agent": agent}, 201)["session"]["id"]

    def session(self, id):
        return self.call("GET", f"/api/sessions/{id}")["session"]

    def delete(self, id, how=""):
        self.call("DELETE", f"/api/sessions/{id}{how}")

    def verb(self, id, verb):
        return self.call("POST", f"/api/sessions/{id}/{verb}")

    def exec(self, id, command):
        body = {"command": command, "timeout": 240_000}
        done = self.call("POST", f"/api/sessions/{id}/exec", body)
        assert done["exitCode"] == 0, done
        return done["stdout"]

    def events(self, id):
        return self.call("GET", f"/api/sessions/{id}/events?limit=1000")["events"]

    def history(self, id):
        """Number and kind of every durable event, whatever of it the API shows."""
        lines = self.machine.do(f"python3 /payload/history.py {id}").splitlines()
        return {int(seq): kind for seq, kind in map(str.split, lines)}

    def send(self, id, content):
        return Turn(self, id, content)

    def ask(self, id, content):
        """The answer of a turn that has nothing to complain about."""
        turn = self.send(id, content).end()
        assert not turn.errors(), turn.told()
        return turn.text()

    def release(self, gate):
        self.machine.do(f"curl -sS -X POST {MODEL}/__control/release/{gate}")

    def await_held(self, gate):
        self.machine.do(f"curl -sS -m 240 {MODEL}/__control/held/{gate}")


class Turn:
    """A message whose answer a client in the machine writes down; it is there again after whatever
    breaks the stream, and goes on behind the last frame that it has."""

    def __init__(self, ash, session, content):
        self.ash = ash
        self.session = session
        self.file = f"/var/tmp/turn-{next(ash.turns)}"
        self.frames = []
        body = {"content": content, "includePartialMessages": True}
        command = ash.curl(f"/api/sessions/{session}/messages") + ash.body(body)
        self.job = self.begin(command, json.dumps(body))

    def begin(self, command, input=""):
        return self.ash.machine.begin(
            f"rm -f {self.file}; {command} -N >{self.file}", limit=900, input=input
        )

    def until(self, name, count=1):
        """Waits for frames of this name."""
        check = f"[ $(grep -c '^event: {name}$' {self.file}) -ge {count} ]"
        self.ash.machine.until(check, f"{name} in a stream")

    def read(self):
        """Takes what the client has written since the stream began."""
        self.frames += parse(self.ash.machine.do(f"cat {self.file}; rm {self.file}"))

    def ended(self):
        return bool(self.frames) and self.frames[-1].name == "done"

    def end(self):
        """Waits for the end of the stream, and joins it again until it is the end of the turn."""
        self.job.result()
        self.read()
        while not self.ended():
            self.join()
        check_ids([frame for frame in self.frames if frame.id])
        return self

    def broken(self):
        """Takes what there is of a stream that has broken off."""
        self.job.exception()
        self.read()
        return self

    def join(self):
        """The rest of the turn, behind the last frame."""
        self.ash.await_up()
        last = [frame.id for frame in self.frames if frame.id][-1]
        id = f"Last-Event-ID: {last[0]}.{last[1]}"
        self.job = self.begin(self.ash.curl(f"/api/sessions/{self.session}/stream?until=done", id))
        self.job.result()
        before = len(self.frames)
        self.read()
        assert len(self.frames) > before, f"nothing follows {last}: {self.told()}"

    def named(self, name):
        return [frame.data for frame in self.frames if frame.name == name]

    def errors(self):
        return [data["error"] for data in self.named("error")]

    def deltas(self):
        return "".join(data["delta"] for data in self.named("text_delta"))

    def text(self):
        """The result of the turn."""
        results = self.named("turn_complete")
        return results[-1].get("result", "") if results else ""

    def told(self):
        """The stream in short: of deltas only the last."""
        frames = [
            frame
            for frame, after in zip(self.frames, [*self.frames[1:], None], strict=True)
            if not (after and after.id and frame.id and is_delta(frame) and is_delta(after))
        ]
        return "\n".join(f"{frame.id} {frame.name} {str(frame.data)[:300]}" for frame in frames)

    def check_history(self):
        """The client has seen every durable event of this turn, and each as the history has it."""
        first, last = self.frames[0].id[0], self.frames[-1].id[0]
        kept = self.ash.history(self.session)
        assert sorted(kept) == list(range(1, len(kept) + 1)), f"the history has gaps: {kept}"
        seen = {frame.id[0] for frame in self.frames}
        owed = {seq for seq, kind in kept.items() if first <= seq <= last and kind != "lifecycle"}
        assert owed == seen, f"{kept}\n{self.told()}"
        live = set(map(str, self.frames))
        later = [str(frame) for frame in self.again(first) if frame.name != "session_start"]
        missed = [frame for frame in later if frame not in live]
        assert later and not missed, f"not as it was seen: {missed}\n{self.told()}"

    def again(self, first):
        """The turn as somebody reads it who comes when it is over."""
        path = f"/api/sessions/{self.session}/stream?until=done"
        text = self.ash.machine.do(f"{self.ash.curl(path, f'Last-Event-ID: {first}.0')} -N -m 120")
        return [frame for frame in parse(text) if frame.id <= self.frames[-1].id]


def installed(machine):
    """Everything that journeys expect which do not install it themselves."""
    ash = Ash(machine)
    ash.install()
    ash.set_up()
    return ash

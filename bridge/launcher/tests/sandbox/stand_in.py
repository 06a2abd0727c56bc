"""A stand-in for the CLI: answers as CLI 2.1.197 was seen to answer. Words of a prompt steer it."""
import json, os, sys, time

MODE = sys.argv[1]


def say(**line):
    sys.stdout.write(json.dumps(line) + "\n")
    sys.stdout.flush()


def state(to):
    say(type="system", subtype="session_state_changed", state=to)


def hear():
    line = sys.stdin.readline()
    if not line:
        if MODE == "deaf":
            time.sleep(600)
        sys.exit(0)
    return json.loads(line)


def succeed(request, **response):
    say(type="control_response", response={
        "subtype": "success", "request_id": request["request_id"], "response": response})


def wait_for_interrupt():
    while True:
        line = hear()
        if line["type"] == "control_request":
            succeed(line)
            if line["request"]["subtype"] == "interrupt":
                return


def ask_permission(tool):
    say(type="control_request", request_id="p1", request={
        "subtype": "can_use_tool", "tool_name": tool, "input": {"command": "ls"}})
    return hear()["response"]


def turn(line):
    text, uuid = line["message"]["content"], line["uuid"]
    words = text.split() if isinstance(text, str) else []
    state("running")
    say(type="system", subtype="init")
    say(type="user", uuid=uuid, isReplay=True, message=line["message"])
    result = "done"
    if "deltas" in words:
        for number in range(int(words[1])):
            say(type="stream_event", event={"n": number, "pad": "x" * int(words[2])})
    if "lines" in words:
        for number in range(int(words[1])):
            say(type="assistant", message={"n": number, "pad": "x" * int(words[2])})
    if "complain" in words:
        for number in range(int(words[1])):
            sys.stderr.write("complaint %d %s\n" % (number, "x" * 100))
        sys.stderr.flush()
    if "said" in words:
        open("/workspace/said", "w").close()
    if "raw" in words:
        sys.stdout.buffer.write(b"not json\n\xff\xfe\n" + b"y" * (33 << 20) + b"\n")
        sys.stdout.flush()
    if "tool" in words:
        result = json.dumps(ask_permission(words[1]))
    if "block" in words:
        say(type="assistant", message={"content": "waiting"})
        wait_for_interrupt()
        result = "interrupted"
    if "stubborn" in words:
        say(type="assistant", message={"content": "waiting"})
        time.sleep(600)
    if "die" in words:
        sys.stderr.write("last words\n")
        sys.stderr.flush()
        os._exit(3)
    if "wait" in words:
        say(type="assistant", message={"content": "waiting"})
        while not os.path.exists("/workspace/go"):
            time.sleep(0.005)
    if "open" in words:
        result = " ".join(str(fd) for fd in sorted(int(fd) for fd in os.listdir("/proc/self/fd"))[:-1])
    if "pid" in words:
        result = str(os.getpid())
    say(type="assistant", message={"content": text})
    say(type="result", subtype="success", is_error=False, result=result)
    state("idle")


if MODE == "broken":
    sys.stderr.write("cannot work like this\n")
    sys.exit(7)
if MODE == "mute":
    time.sleep(600)
while True:
    line = hear()
    if line["type"] == "control_request":
        subtype = line["request"]["subtype"]
        if subtype == "unheard":
            continue
        succeed(line, echo=line["request"])
    elif line["type"] == "user":
        turn(line)

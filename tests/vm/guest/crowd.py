"""Many clients at once: `crowd.py`, a line of JSON {address, key, requests} on standard input.

A request is [method, path, body]. Each is sent by a client of its own, which sends it again when
there is no room for it, as late as it is told, by a status or, when it has waited, in its stream. For each there is a line of JSON, in their order:
{status, text, seconds}, with the time from the first attempt to the end of the answer. A refusal that
does not say when to come again is an answer like any other.
"""

import http.client
import json
import sys
import time
from concurrent.futures import ThreadPoolExecutor

# Seconds, far above what anybody is kept waiting: streams say something every now and then.
SILENCE = 300


def once(address, key, method, path, body):
    """Status, text, and when to come again."""
    headers = {"Authorization": f"Bearer {key}", "Content-Type": "application/json"}
    connection = http.client.HTTPConnection(address, timeout=SILENCE)
    try:
        body = None if body is None else json.dumps(body)
        connection.request(method, path, body, headers)
        answer = connection.getresponse()
        text, later = answer.read().decode(), answer.headers.get("Retry-After")
        return answer.status, text, later if answer.status == 503 else refused_late(text)
    finally:
        connection.close()


def refused_late(text):
    """When to come again, if that is what a stream says."""
    for lines in (frame.split("\n") for frame in text.split("\n\n")):
        if "event: error" in lines:
            data = next(line for line in lines if line.startswith("data: "))
            return json.loads(data.removeprefix("data: ")).get("retryAfter")
    return None


def patiently(address, key, request):
    begun = time.monotonic()
    while True:
        status, text, later = once(address, key, *request)
        if not later:
            return {"status": status, "text": text, "seconds": time.monotonic() - begun}
        time.sleep(int(later))


def main():
    told = json.load(sys.stdin)
    requests = told["requests"]
    with ThreadPoolExecutor(len(requests)) as clients:
        answers = clients.map(lambda one: patiently(told["address"], told["key"], one), requests)
        for answer in answers:
            print(json.dumps(answer))


if __name__ == "__main__":
    main()

"""Somebody who looks after the machine: asks for health and status, until a file is there.

`probe.py ADDRESS FILE BOUND`. For each look there is a line of JSON {health, status, told}: how many
seconds each answer took, and what /health has told. It fails when there is no answer within so many
seconds.
"""

import http.client
import json
import pathlib
import subprocess
import sys
import time


def health(address, bound):
    connection = http.client.HTTPConnection(address, timeout=bound)
    try:
        connection.request("GET", "/health")
        answer = connection.getresponse()
        text = answer.read()
        assert answer.status == 200, text
        return json.loads(text)
    finally:
        connection.close()


def main():
    address, stop, bound = sys.argv[1], pathlib.Path(sys.argv[2]), float(sys.argv[3])
    while not stop.exists():
        begun = time.monotonic()
        told = health(address, bound)
        between = time.monotonic()
        command = ["ashctl", "status"]
        subprocess.run(command, stdout=subprocess.DEVNULL, timeout=bound, check=True)
        taken = {"health": between - begun, "status": time.monotonic() - between}
        print(json.dumps({**taken, "told": told}))
        time.sleep(1)


if __name__ == "__main__":
    main()

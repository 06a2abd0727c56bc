"""Tries to reach what is outside. Arguments: addresses HOST:PORT, and an abstract socket's name.

Prints JSON: what came of each try, an error's name or "reached".
"""

import errno
import json
import socket
import sys


def attempt(connect) -> str:
    try:
        connect()
        return "reached"
    except socket.gaierror as failure:
        return f"gai {failure.errno}"
    except TimeoutError:
        return "timeout"
    except OSError as failure:
        return errno.errorcode.get(failure.errno, str(failure))


def tcp(address: str) -> None:
    host, port = address.rsplit(":", 1)
    socket.create_connection((host, int(port)), timeout=5).close()


def udp(address: str) -> None:
    host, port = address.rsplit(":", 1)
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_DGRAM) as sender:
        sender.sendto(b"\0" * 12, (host, int(port)))


def unix(name: str) -> None:
    with socket.socket(socket.AF_UNIX) as stream:
        stream.connect(name)


def main() -> None:
    *addresses, abstract = sys.argv[1:]
    tried = {address: attempt(lambda a=address: tcp(a)) for address in addresses}
    tried["abstract"] = attempt(lambda: unix("\0" + abstract))
    tried["dns"] = attempt(lambda: socket.getaddrinfo("example.com", 443))
    for far in ("192.0.2.1:53", "169.254.169.254:80", "10.0.0.1:53", "2001:db8::1:53"):
        tried[f"udp {far}"] = attempt(lambda f=far: udp(f))
    with open("/proc/net/dev") as devices:
        tried["interfaces"] = [line.split(":")[0].strip() for line in devices if ":" in line]
    print(json.dumps(tried))


main()

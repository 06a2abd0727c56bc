"""The deb and the rpm in a directory hold the same: `python3 payloads.py DIRECTORY`.

They may differ in what the list says that the formats want differently, and in nothing else: paths,
modes, owners and contents are compared.
"""

import hashlib
import io
import subprocess
import sys
import tarfile
from pathlib import Path

TOP = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(TOP / "scripts"))

import stage  # noqa: E402

Payload = dict[str, tuple[int, str, str, str]]


def run(*command: object) -> bytes:
    return subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout


def of_deb(package: Path) -> Payload:
    """Mode, user, group and digest of every file, by path."""
    payload = {}
    with tarfile.open(fileobj=io.BytesIO(run("dpkg-deb", "--fsys-tarfile", package))) as tar:
        for member in (member for member in tar if not member.isdir()):
            digest = hashlib.sha256(tar.extractfile(member).read()).hexdigest()
            owner = (member.uname or "root", member.gname or "root")
            payload[member.name.lstrip(".")] = (member.mode, *owner, digest)
    return payload


def of_rpm(package: Path) -> Payload:
    query = "[%{FILENAMES} %{FILEMODES} %{FILEUSERNAME} %{FILEGROUPNAME} %{FILEDIGESTS}\\n]"
    payload = {}
    for line in run("rpm", "--query", "--queryformat", query, package).decode().splitlines():
        path, mode, user, group, digest = line.split()
        payload[path] = (int(mode) & 0o7777, user, group, digest)
    return payload


def differences(directory: Path) -> list[str]:
    (deb,), (rpm,) = directory.glob("*.deb"), directory.glob("*.rpm")
    debs, rpms = of_deb(deb), of_rpm(rpm)
    entries = stage.read_list((TOP / "packaging/files").read_text())
    wrong = []
    for name, payload, is_deb in (("deb", debs, True), ("rpm", rpms, False)):
        listed = {entry.destination for entry in stage.wanted(entries, is_deb)}
        wrong += [f"{path} is not as listed in the {name}" for path in listed ^ payload.keys()]
    for path in debs.keys() & rpms.keys():
        if debs[path] != rpms[path]:
            wrong.append(f"{path} differs: {debs[path]} in the deb, {rpms[path]} in the rpm")
    kept = run("dpkg-deb", "--info", deb, "conffiles"), run("rpm", "--query", "--configfiles", rpm)
    if sorted(kept[0].split()) != sorted(kept[1].split()):
        wrong.append(f"they keep different configuration files: {kept}")
    return wrong


if __name__ == "__main__":
    sys.exit("\n".join(differences(Path(sys.argv[1]))) or 0)

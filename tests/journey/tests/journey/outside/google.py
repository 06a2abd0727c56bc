"""An S3 server that is spoken to as Google Cloud Storage is.

Google's XML API is that of S3, but for who asks and on which condition: there it is a token of a
service account, and the generation that has to be there. These two are translated, and nothing else:
what only one of both knows is refused, so that a client that uses it is noticed.
"""

import base64
import json
import sys
import threading
import time

from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import padding, rsa
from moto.server import DomainDispatcherApplication, MotoRequestHandler, create_backend_app
from werkzeug.serving import run_simple
from werkzeug.test import Client
from werkzeug.wrappers import Response

EMAIL = "ash@project.iam.gserviceaccount.com"
CONDITION = "HTTP_X_GOOG_IF_GENERATION_MATCH"

server = DomainDispatcherApplication(create_backend_app)
key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
# The server looks first and puts then, and would let two win at once.
one = threading.Lock()


def decoded(part):
    return base64.urlsafe_b64decode(part + "=" * (-len(part) % 4))


def knows(authorization):
    """Whether that is a token that the service account has signed for itself."""
    try:
        kind, token = authorization.split(" ")
        signed, signature = token.rsplit(".", 1)
        key.public_key().verify(
            decoded(signature), signed.encode(), padding.PKCS1v15(), hashes.SHA256()
        )
        head, claims = (json.loads(decoded(part)) for part in signed.split("."))
        return (
            (kind, head["alg"], head["kid"]) == ("Bearer", "RS256", "the key")
            and claims["iss"] == claims["sub"] == EMAIL
            and claims["scope"].endswith("/auth/cloud-platform")
            and claims["iat"] - 60 < time.time() < claims["exp"]
        )
    except Exception:
        return False


def serve(environ, start):
    if not knows(environ.pop("HTTP_AUTHORIZATION", "")):
        return Response("no such account", 401)(environ, start)
    absent = environ.pop(CONDITION, None)
    foreign = [name for name in environ if name.startswith(("HTTP_X_GOOG_", "HTTP_X_AMZ_"))]
    if foreign or "HTTP_IF_NONE_MATCH" in environ or absent not in (None, "0"):
        return Response(f"not translated: {foreign}", 501)(environ, start)
    environ["HTTP_AUTHORIZATION"] = "AWS nobody:nothing"
    if absent is None:
        return server(environ, start)
    environ["HTTP_IF_NONE_MATCH"] = "*"
    with one:
        return list(server(environ, start))


def main(port, credentials):
    encoded = key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )
    account = {
        "type": "service_account",
        "client_email": EMAIL,
        "private_key_id": "the key",
        "private_key": encoded.decode(),
    }
    Client(server).put("/bucket")
    with open(credentials, "w") as file:
        json.dump(account, file)
    run_simple("127.0.0.1", int(port), serve, threaded=True, request_handler=MotoRequestHandler)


main(*sys.argv[1:])

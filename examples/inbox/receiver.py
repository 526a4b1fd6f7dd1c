"""A receiver whose effects happen exactly once, with PostgreSQL and psycopg 3.

    DATABASE_URL=postgresql://… WEBHOOK_SECRET=whsec_… python3 examples/inbox/receiver.py

Needs examples/inbox/inbox.sql, and a role that may read and write its tables.
"""

import base64
import hmac
import http.server
import json
import os
import time

import psycopg

KEY = base64.b64decode(os.environ["WEBHOOK_SECRET"].removeprefix("whsec_"))
# A clock may be wrong by this much; what was signed before that is somebody's recording.
TOLERANCE_SECONDS = 300


def is_genuine(headers, body):
    """Whether outboxd signed these bytes a moment ago. Verify the bytes as they came, then parse them."""
    id, at = headers.get("webhook-id", ""), headers.get("webhook-timestamp", "")
    if not id or not at.isdecimal() or abs(time.time() - int(at)) > TOLERANCE_SECONDS:
        return False
    digest = hmac.digest(KEY, f"{id}.{at}.".encode() + body, "sha256")
    wanted = b"v1," + base64.b64encode(digest)
    # While a secret is exchanged there are several, one of them good.
    given = headers.get("webhook-signature", "").encode().split(b" ")
    return any(hmac.compare_digest(wanted, one) for one in given)


def effect(connection, payload):
    """What the message is for. Whatever it writes, it writes through this connection."""
    connection.execute(
        "INSERT INTO inbox.account AS a (customer, points) VALUES (%(customer)s, %(points)s)"
        " ON CONFLICT (customer) DO UPDATE SET points = a.points + excluded.points",
        payload,
    )


def receive(id, payload):
    """Commits the id together with the effect, or neither; does nothing where the id is there."""
    # Whoever waits longer than this for a repeat that is at work answers 500, and outboxd comes again.
    with psycopg.connect(os.environ["DATABASE_URL"], options="-c lock_timeout=10s") as connection:
        # A repeat that is at work right now holds the id: this waits until it has committed, and then does
        # nothing, or has rolled back, and then does its work. A SELECT beforehand would see neither.
        new = connection.execute(
            "INSERT INTO inbox.seen (id) VALUES (%s) ON CONFLICT (id) DO NOTHING", (id,)
        ).rowcount
        if new:
            effect(connection, payload)


class Receiver(http.server.BaseHTTPRequestHandler):
    def do_POST(self):
        body = self.rfile.read(int(self.headers["content-length"]))
        if not is_genuine(self.headers, body):
            self.answer(401)
            return
        try:
            receive(self.headers["webhook-id"], json.loads(body))
        except psycopg.Error as error:
            self.log_error("%s: %s", self.headers["webhook-id"], error)
            self.answer(500)
            return
        # Only now, after the commit. If this is never read, the repeat finds the id.
        self.answer(200)

    def answer(self, status):
        self.send_response(status)
        self.send_header("content-length", "0")
        self.end_headers()


port = int(os.environ.get("PORT", "8080"))
http.server.ThreadingHTTPServer(("127.0.0.1", port), Receiver).serve_forever()

"""A mail server of aiosmtpd. Says its port, then every mail it takes, one JSON object a line.

Its argument is a JSON object:
  answers     step -> reply, or "raise", "close", "hang"; steps are EHLO, AUTH, MAIL, RCPT, DATA
  recipients  address -> reply
  login       [user, password], asked for before any mail
  tls         [certificate, key], files; then STARTTLS is required
  smtputf8    whether it is offered
  size        the largest mail
"""

import asyncio
import base64
import json
import ssl
import sys

from aiosmtpd.smtp import SMTP, AuthResult

options = json.loads(sys.argv[1])
answers = options.get("answers", {})
recipients = options.get("recipients", {})


def tell(**what):
    print(json.dumps(what), flush=True)


async def answer(server, step, usual):
    said = answers.get(step, usual)
    if said == "raise":
        raise RuntimeError("a fault of the server's own")
    if said == "close":
        server.transport.close()
    if said == "hang":
        await asyncio.Event().wait()
    return said


class Handler:
    async def handle_EHLO(self, server, session, envelope, hostname, responses):
        session.host_name = hostname
        said = await answer(server, "EHLO", None)
        return responses if said is None else [said]

    async def handle_MAIL(self, server, session, envelope, address, mail_options):
        said = await answer(server, "MAIL", "250 2.1.0 Ok")
        if said.startswith("2"):
            envelope.mail_from = address
            envelope.mail_options.extend(mail_options)
        return said

    async def handle_RCPT(self, server, session, envelope, address, rcpt_options):
        said = await answer(server, "RCPT", recipients.get(address, "250 2.1.5 Ok"))
        if said.startswith("2"):
            envelope.rcpt_tos.append(address)
        return said

    async def handle_DATA(self, server, session, envelope):
        said = await answer(server, "DATA", "250 2.0.0 Ok: queued as PY1")
        if said.startswith("2"):
            tell(
                sender=envelope.mail_from,
                to=envelope.rcpt_tos,
                options=envelope.mail_options,
                data=base64.b64encode(envelope.content).decode(),
            )
        return said


class Authenticator:
    def __call__(self, server, session, envelope, mechanism, data):
        if answers.get("AUTH") == "raise":
            raise RuntimeError("a fault of the server's own")
        user, password = options["login"]
        right = data.login == user.encode() and data.password == password.encode()
        return AuthResult(success=right, handled=False)


def make(loop):
    more = {}
    if "tls" in options:
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        context.load_cert_chain(*options["tls"])
        more.update(tls_context=context, require_starttls=True)
    if "login" in options:
        more.update(authenticator=Authenticator(), auth_required=True, auth_require_tls="tls" in options)
    if "size" in options:
        more.update(data_size_limit=options["size"])
    return SMTP(Handler(), hostname="py.example", enable_SMTPUTF8=options.get("smtputf8", False), loop=loop, **more)


async def serve():
    loop = asyncio.get_running_loop()
    server = await loop.create_server(lambda: make(loop), "127.0.0.1", 0)
    tell(port=server.sockets[0].getsockname()[1])
    await server.serve_forever()


asyncio.run(serve())

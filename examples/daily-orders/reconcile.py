"""Holds files and mails of the replay against the table: exits 0 only if everything adds up.

    psql -c 'COPY (SELECT id FROM shop.orders) TO STDOUT' | python3 reconcile.py FOLDER
"""

import collections, csv, email, email.policy, hashlib, io, json, pathlib, sys

folder = pathlib.Path(sys.argv[1])
orders = sorted(int(line) for line in sys.stdin)
files = {path.name: path.read_bytes() for path in sorted(folder.glob("exports/orders-*.csv"))}


def numbers(data):
    rows = csv.DictReader(io.StringIO(data.decode("utf-8-sig"), newline=""), delimiter=";")
    return [int(row["Nr"]) for row in rows]


def letters():
    """The department's mails, without what smtp-sink puts before them."""
    for path in sorted(folder.glob("mails/*")):
        mail = email.message_from_bytes(path.read_bytes(), policy=email.policy.default)
        if mail["To"] == "processing@example.com":
            yield mail


in_files = sorted(number for data in files.values() for number in numbers(data))
told = [json.loads((folder / f"exports/{name}.json").read_text()) for name in files]
mails = list(letters())
attached = [(part.get_filename(), part.get_content()) for mail in mails for part in mail.iter_attachments()]
attached = [(name, data.encode() if isinstance(data, str) else data) for name, data in attached]
sent = collections.Counter(name for name, _ in attached)

checks = {
    f"{len(orders)} orders, each in exactly one of {len(files)} files": in_files == orders,
    "count and hash of each file as its sidecar tells": all(
        (one["rows"], one["sha256"]) == (len(numbers(data)), hashlib.sha256(data).hexdigest())
        for one, data in zip(told, files.values())
    ),
    f"each file in exactly one of {len(mails)} mails": sorted(sent.elements()) == sorted(files),
    "attached as it stands in the folder": all(data == files.get(name) for name, data in attached),
    "no Message-ID twice": len({mail["Message-ID"] for mail in mails}) == len(mails),
}
for what, holds in checks.items():
    print(f"{'ok    ' if holds else 'WRONG '} {what}")
sys.exit(0 if orders and all(checks.values()) else 1)

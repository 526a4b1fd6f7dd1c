"""A producer in Python, with psycopg2 or psycopg 3. The order and its message stand or fall together.

    DATABASE_URL=postgres://… python3 examples/producer.py

Needs examples/shop.sql, and a role that may write orders and is a member of outbox_producer.
"""

import json
import os

try:
    import psycopg
except ImportError:
    import psycopg2 as psycopg


def place_order(cursor, customer, email, total):
    """Writes the order, and what the shop has to say about it; returns the message's id."""
    cursor.execute(
        "INSERT INTO shop.orders (customer, email, total) VALUES (%s, %s, %s) RETURNING id, total",
        (customer, email, total),
    )
    order_id, total = cursor.fetchone()
    # A decimal is no JSON number in Python, and a float would not be exact: send it as text.
    payload = {"order_id": order_id, "email": email, "total": str(total)}
    cursor.execute(
        "INSERT INTO outbox.message (type, key, payload) VALUES (%s, %s, %s) RETURNING id",
        ("order.created", customer, json.dumps(payload)),
    )
    return cursor.fetchone()[0]


connection = psycopg.connect(os.environ["DATABASE_URL"])
cursor = connection.cursor()

message_id = place_order(cursor, "carol", "carol@example.com", "7.50")
connection.commit()
print(f"committed: message {message_id}")

try:
    place_order(cursor, "dave", "dave@example.com", "99.00")
    raise RuntimeError("the payment was declined")
except RuntimeError as reason:
    connection.rollback()
    print(f"rolled back: {reason}")

connection.close()

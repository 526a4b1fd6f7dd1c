"""A producer with SQLAlchemy's ORM. The order and its message stand or fall together.

    DATABASE_URL=postgresql://… python3 examples/producers/python/with_sqlalchemy.py

Needs examples/shop.sql, and a role that may write orders and is a member of outbox_producer.
"""

import os

from sqlalchemy import BigInteger, Column, DateTime, Identity, Numeric, Text, create_engine
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.orm import Session, declarative_base

Base = declarative_base()


class Order(Base):
    __tablename__ = "orders"
    __table_args__ = {"schema": "shop"}
    id = Column(BigInteger, Identity(always=True), primary_key=True)
    customer = Column(Text, nullable=False)
    email = Column(Text, nullable=False)
    total = Column(Numeric(12, 2), nullable=False)


class Message(Base):
    """What a producer may write, and no more: another column here would be in every INSERT.

    Alembic: leave the schema outbox out of --autogenerate (include_name), or it will "correct" it.
    """

    __tablename__ = "message"
    # The schema stands apart; "outbox.message" as the table's name would be one quoted word.
    __table_args__ = {"schema": "outbox"}
    id = Column(BigInteger, Identity(always=True), primary_key=True)
    type = Column(Text, nullable=False)
    payload = Column(JSONB, nullable=False)
    key = Column(Text)
    due_at = Column(DateTime(timezone=True))
    expires_at = Column(DateTime(timezone=True))
    dedupe_key = Column(Text)
    # none_as_null: without it None would be the JSON null, which is no object of texts.
    headers = Column(JSONB(none_as_null=True))


def place_order(session, customer, email, total):
    """Writes the order, and what the shop has to say about it; returns the message."""
    order = Order(customer=customer, email=email, total=total)
    session.add(order)
    session.flush()  # draws the order's id
    message = Message(
        type="order.created",
        key=customer,
        # json knows no Decimal, and a float would not be exact: send it as text.
        payload={"order_id": order.id, "email": email, "total": str(total)},
    )
    # In the same session, before its commit. A listener for "after_commit" comes too late: what fails
    # there is lost, and the order stays.
    session.add(message)
    session.flush()
    return message


# SQLAlchemy knows postgresql:// and not postgres://, as Heroku writes it.
engine = create_engine(os.environ["DATABASE_URL"].replace("postgres://", "postgresql://", 1))

with Session(engine) as session, session.begin():
    message_id = place_order(session, "carol", "carol@example.com", "7.50").id
print(f"committed: message {message_id}")

try:
    with Session(engine) as session, session.begin():
        place_order(session, "dave", "dave@example.com", "99.00")
        raise RuntimeError("the payment was declined")
except RuntimeError as reason:
    print(f"rolled back: {reason}")

from decimal import Decimal

from django.db import transaction

from outbox.models import Message
from shop.models import Order


# Without `atomic` Django commits each statement by itself, and a crash between the two loses the message.
# `transaction.on_commit` is no place for it either: that runs when the transaction is over.
@transaction.atomic
def place_order(customer, email, total):
    """Writes the order, and what the shop has to say about it; returns the message."""
    order = Order.objects.create(customer=customer, email=email, total=Decimal(total))
    return Message.objects.create(
        type="order.created",
        key=customer,
        payload={"order_id": order.id, "email": email, "total": order.total},
    )

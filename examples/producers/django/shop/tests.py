from django.test import TestCase

from outbox.models import Message
from shop.orders import place_order


class PlaceOrder(TestCase):
    """Each test is one transaction that is rolled back, so nothing of it is ever delivered.

    It reads messages, which a producer may not. `manage.py test` makes its database itself, by the
    migrations, and so owns the table there.
    """

    def test_says_that_an_order_was_created(self):
        place_order("carol", "carol@example.com", "7.50")
        message = Message.objects.get(type="order.created")
        self.assertEqual(message.key, "carol")
        self.assertEqual(message.payload["total"], "7.50")

    def test_says_nothing_of_an_order_that_is_refused(self):
        with self.assertRaises(ArithmeticError):
            place_order("carol", "carol@example.com", "no number")
        self.assertFalse(Message.objects.exists())

from django.test import TestCase, TransactionTestCase

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


class PlaceOrderForGood(TransactionTestCase):
    """Each test commits. Django empties what it manages, and messages are not among that."""

    def setUp(self):
        Message.objects.all().delete()

    def test_says_it_once(self):
        place_order("carol", "carol@example.com", "7.50")
        Message.objects.get(type="order.created").full_clean()

    def test_says_it_once_after_a_test_that_committed(self):
        self.test_says_it_once()

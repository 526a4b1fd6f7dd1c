from django.core.management.base import BaseCommand
from django.db import transaction

from shop.orders import place_order


class Command(BaseCommand):
    help = "Commits one order and rolls one back."

    def handle(self, **options):
        message = place_order("carol", "carol@example.com", "7.50")
        self.stdout.write(f"committed: message {message.id}")
        try:
            with transaction.atomic():
                place_order("dave", "dave@example.com", "99.00")
                raise RuntimeError("the payment was declined")
        except RuntimeError as reason:
            self.stdout.write(f"rolled back: {reason}")

"""A shop with Django: the smallest project that sells something and says so.

    outboxd migrate --print --as django > outbox/migrations/0001_outbox.py
    python3 manage.py migrate                 # as the owner of the database
    python3 manage.py place_orders            # as a member of outbox_producer
    python3 manage.py test
"""

import os
import sys

from django.core.management import execute_from_command_line

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "settings")
execute_from_command_line(sys.argv)

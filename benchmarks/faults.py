"""stub."""

from .table import Table

TABLE = Table('faults', 'x', lambda o: iter(()), lambda r: iter(()), lambda r: '')

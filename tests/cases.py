"""How many cases of which kind were tried; printed behind the tests."""

from collections import Counter

counts: Counter[str] = Counter()

"""`python -m dplit.fit` is `dplit fit`."""

from __future__ import annotations

from tests.test_account import ARGUMENTS, law_both_ways_say_the_same


@ARGUMENTS
def test_both_ways_say_the_same(arguments: list[str]) -> None:
    law_both_ways_say_the_same("fit", arguments)

"""Words for ranks in a message."""

from collections.abc import Sequence

_NAMED = 16


def ranks(numbers: Sequence[int]) -> str:
    """ "rank 3", or "ranks 3, 4 and 7"; of very many the first."""
    if len(numbers) == 1:
        return f"rank {numbers[0]}"
    named = [str(number) for number in numbers[:_NAMED]]
    rest = len(numbers) - len(named)
    last = f"{rest} more" if rest else named.pop()
    return f"ranks {', '.join(named)} and {last}"

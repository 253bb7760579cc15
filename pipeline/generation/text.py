"""New ids, one by one -> pieces of text that can be shown at once, until a stop string comes.

A token may hold a part of a character, and in some tokenizers a space only where text stands before it. So ids are
decoded together with a few that stand before them, and a piece is held back while it ends inside of a character, or in
what may become a stop string.

Promise: the pieces together are the text of all ids as the tokenizer decodes them behind the prompt, cut before the
first stop string.
"""

from collections.abc import Sequence

from data_prep.tokenizers import Tokenizer

INCOMPLETE = "\ufffd"
"""What tokenizers write for bytes that are no character, or not yet."""


class TextStream:
    """The text of one continuation.

    Args:
        tokenizer: of the model.
        before: ids that stand before the first new one.
        stop: texts that end the continuation, none of them empty.

    Attributes:
        text: everything so far that stands fast, without the stop string.
        stopped: whether a stop string has come.
    """

    def __init__(self, tokenizer: Tokenizer, before: Sequence[int], stop: Sequence[str] = ()) -> None:
        self._tokenizer, self._stop = tokenizer, tuple(stop)
        self._ids = list(before)
        self._context = 0  # decoding begins here: where the last piece but one began
        self._done = len(self._ids)  # ids up to here have become text
        self._held = ""  # text that may be the beginning of a stop string
        self.text = ""
        self.stopped = False

    def add(self, token: int) -> str:
        """Take one more id; returns the text that has come to stand fast."""
        self._ids.append(token)
        return self._advance(last=False)

    def end(self) -> str:
        """No more ids come; returns the rest."""
        return self._advance(last=True)

    def _advance(self, *, last: bool) -> str:
        if self.stopped:
            return ""
        known = self._tokenizer.decode(self._ids[self._context : self._done])
        together = self._tokenizer.decode(self._ids[self._context :])
        new = together[len(known) :]
        if new.endswith(INCOMPLETE) and not last:
            new = ""
        elif new:
            self._context, self._done = self._done, len(self._ids)
        pending = self._held + new
        found = min((at for at in (pending.find(text) for text in self._stop) if at >= 0), default=None)
        if found is not None:
            self.stopped = True
            piece, self._held = pending[:found], ""
        else:
            held = 0 if last else self._may_become_stop(pending)
            piece, self._held = pending[: len(pending) - held], pending[len(pending) - held :]
        self.text += piece
        return piece

    def _may_become_stop(self, text: str) -> int:
        """How many of the last characters of `text` are the beginning of a stop string, at most."""
        longest = max((len(stop) for stop in self._stop), default=1) - 1
        for length in range(min(longest, len(text)), 0, -1):
            if any(stop.startswith(text[-length:]) for stop in self._stop):
                return length
        return 0

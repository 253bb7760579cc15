"""Documents -> rows: which piece of which document stands where.

What comes in: the lengths of a window of documents, in tokens with their end-of-document token. What goes out:
`Packed`, the pieces in the order in which they stand in the rows. Promises, for both policies: every token after a
document's first is predicted exactly once (the first one has nothing to be predicted from); a piece has at least two
tokens; pieces of one document overlap by one token. `best_fit` never cuts a document that fits a row.

Pure functions of their arguments.
"""

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Packed:
    """Pieces in row order; within a row, in column order.

    Attributes:
        document: int64 [pieces], index of the piece's document.
        start: int64 [pieces], the piece's first token within its document.
        length: int64 [pieces], tokens.
        number: int64 [pieces], 0 for a document's first piece, 1 for its second, ...
        row: int64 [pieces], not decreasing, without gaps from 0.
    """

    document: np.ndarray
    start: np.ndarray
    length: np.ndarray
    number: np.ndarray
    row: np.ndarray


def pack(policy: str, lengths: np.ndarray, row_length: int) -> Packed:
    """Pack documents by the named policy.

    Args:
        policy: "best_fit" or "concat".
        lengths: int64 [documents], each at least 2.
        row_length: tokens per row (sequence_length + 1), at least 2.
    """
    return pack_concat(lengths, row_length) if policy == "concat" else pack_best_fit(lengths, row_length)


def pack_best_fit(lengths: np.ndarray, row_length: int) -> Packed:
    """Best-fit decreasing: longest piece first, each into the fullest row that still holds it.

    A document longer than a row is cut into full rows and a rest; rests are packed like short documents.
    """
    pieces = np.maximum(-(-(lengths - 1) // (row_length - 1)), 1)
    document = np.repeat(np.arange(len(lengths)), pieces)
    number = np.arange(len(document)) - np.repeat(np.cumsum(pieces) - pieces, pieces)
    start = number * (row_length - 1)
    length = np.minimum(lengths[document] - start, row_length)
    row = _best_fit_rows(length, row_length)
    order = np.argsort(row, kind="stable")
    return Packed(document[order], start[order], length[order], number[order], row[order])


def pack_concat(lengths: np.ndarray, row_length: int) -> Packed:
    """The classic: one document after the other, cut wherever a row ends.

    A single column left at the end of a row stays empty, because a piece of one token would predict nothing.
    """
    pieces: list[tuple[int, int, int, int, int]] = []
    row, free = 0, row_length
    for document, tokens in enumerate(lengths.tolist()):
        start = number = 0
        while True:
            if free < 2:
                row, free = row + 1, row_length
            length = min(free, tokens - start)
            pieces.append((document, start, length, number, row))
            free -= length
            if start + length == tokens:
                break
            start, number = start + length - 1, number + 1
    columns = np.array(pieces, dtype=np.int64).reshape(-1, 5).T
    return Packed(*np.ascontiguousarray(columns))


def _best_fit_rows(lengths: np.ndarray, row_length: int) -> np.ndarray:
    """int64 [pieces]: the row of each piece.

    Works on all pieces of one length at once, and on all rows with the same room at once: the cost follows the number
    of different (length, room) pairs and not the number of pieces. The bits of one integer tell which rooms exist.
    """
    order = np.argsort(-lengths, kind="stable")
    values, counts = np.unique(-lengths[order], return_counts=True)
    assigned: list[int] = []  # rows in `order`
    rooms: list[list[int]] = [[] for _ in range(row_length + 1)]  # rooms[r]: rows with r columns left
    present = 0  # bit r is set when rooms[r] is not empty
    rows = 0
    for length, left in zip((-values).tolist(), counts.tolist(), strict=True):
        while left:
            fitting = present >> length
            if fitting:
                room = length + (fitting & -fitting).bit_length() - 1
                per_row = room // length  # the fullest row stays the fullest, so it is filled before the next one
                chosen = rooms[room][-max(left // per_row, 1) :]
                del rooms[room][-len(chosen) :]
                if not rooms[room]:
                    present ^= 1 << room
            else:
                room, per_row = row_length, row_length // length
                chosen = list(range(rows, rows + max(left // per_row, 1)))
                rows += len(chosen)
            per_row = min(per_row, left)
            assigned += chosen if per_row == 1 else [row for row in chosen for _ in range(per_row)]
            left -= per_row * len(chosen)
            rest = room - per_row * length
            if rest >= 2:
                rooms[rest] += chosen
                present |= 1 << rest
    row_of = np.empty(len(lengths), dtype=np.int64)
    row_of[order] = assigned
    return row_of

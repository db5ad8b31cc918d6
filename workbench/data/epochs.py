"""How many rows and batches a number of epochs is: epochs count rows, and the last batch takes those that are left."""

from __future__ import annotations

from fractions import Fraction

VERSION = 2
"""Version of this rule: from 2 on the last batch is no longer filled up with rows of a further epoch."""


def rows_of_epochs(epochs: float, rows: int) -> int:
    """Rows drawn in so many passes over `rows`, a broken one counted whole: 1.1 epochs of 10 rows are 11, not the 12
    that the product of binary numbers gives."""
    product = Fraction(str(epochs)) * rows
    return -(-product.numerator // product.denominator)


def batches_of_epochs(epochs: float, rows: int, batch_rows: int) -> int:
    """ceil(epochs x rows / batch_rows)."""
    return -(-rows_of_epochs(epochs, rows) // batch_rows)


def rows_of_last_batch(epochs: float, rows: int, batch_rows: int) -> int:
    """The rows of the last batch, 1 to batch_rows."""
    return (rows_of_epochs(epochs, rows) - 1) % batch_rows + 1

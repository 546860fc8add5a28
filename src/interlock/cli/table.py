"""Tables of what a store holds."""

from __future__ import annotations

from typing import Any

from rich.table import Table
from rich.text import Text

from interlock.cli.common import escaped


class DataTable(Table):
    """A table of other people's text, in which nothing is taken for markup."""

    def add_row(self, *cells: object, **options: Any) -> None:
        """Add a row of texts."""
        super().add_row(*(Text(escaped(str(cell))) for cell in cells), **options)

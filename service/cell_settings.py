"""Declares the settings of the cell that a process belongs to."""

from collections.abc import Mapping, Sequence
from typing import Any, Final

from pydantic import Field, SecretStr, field_validator, model_validator
from pydantic_settings import BaseSettings

from service.database_settings import check_database_url
from service.domain.cells import ALL_BATCHES, Slice, numbers_at, slices_at

MOST_CELLS: Final = 1024
"""Each cell reads all inputs, so far fewer are of use."""


class CellSettings(BaseSettings):
    """Holds the settings of the cell; `Settings` adds the others."""

    cells: int = Field(
        1,
        ge=1,
        le=MOST_CELLS,
        description="Number of cells, a power of two: databases that share the batches, each with pods of its own "
        "([decision 0019](decisions/0019-cells.md)).",
    )
    cell: int | None = Field(
        None,
        ge=0,
        lt=MOST_CELLS,
        description="Number of the cell that this process belongs to, from 0 to `ELS_CELLS` - 1. Needed where "
        "`ELS_CELLS` is not 1.",
    )

    cell_database_urls: SecretStr | None = Field(
        None,
        description="Database URLs of all cells, separated by spaces, that of cell 0 first. A cell that is not "
        "split yet stands at the places of both halves ([scaling](scaling.md#operate-cells)). With them, `top`, "
        "`find`, `check`, `audit` and the console show all cells, and a rejected input that turns out to belong to "
        "another cell is replayed there.",
    )

    standby_database_url: SecretStr | None = Field(
        None,
        description="URL of the standby that `cells split` or `cells move` makes the database of a cell, with a login "
        "as that of `ELS_MIGRATION_DATABASE_URL`. Only these commands use it "
        "([scaling](scaling.md#split-or-move-a-cell)).",
    )

    @property
    def urls_of_cells(self) -> tuple[str, ...]:
        """Returns the database URLs of all cells, with their passwords; none where they are not set."""
        return tuple(self.cell_database_urls.get_secret_value().split()) if self.cell_database_urls else ()

    @property
    def url_of_cell(self) -> Mapping[Slice, str]:
        """Returns the database URL of each cell, in their order; none where they are not set."""
        return dict(slices_at(self.urls_of_cells))

    @property
    def numbers_of_cells(self) -> Sequence[int]:
        """Returns, for the remainder of a hash by their count, the number of the cell that has it."""
        return numbers_at(list(self.url_of_cell) or [Slice(self.cells, cell) for cell in range(self.cells)])

    @property
    def slice(self) -> Slice:
        """Returns the batches that the process and its database are responsible for."""
        return ALL_BATCHES if self.cell is None else Slice(self.cells, self.cell)

    @field_validator("cell_database_urls")
    @classmethod
    def _are_database_urls(cls, urls: SecretStr | None) -> SecretStr | None:
        for url in urls.get_secret_value().split() if urls else ():
            check_database_url(url)
        return urls

    @field_validator("standby_database_url")
    @classmethod
    def _is_a_standby_url(cls, url: SecretStr | None) -> SecretStr | None:
        if url is not None:
            check_database_url(url.get_secret_value())
        return url

    @field_validator("cells")
    @classmethod
    def _is_a_power_of_two(cls, cells: int) -> int:
        if cells & (cells - 1):
            raise ValueError(f"should be a power of two (1, 2, 4, 8 …), and not {cells}")
        return cells

    @model_validator(mode="after")
    def _cell_fits(self) -> Any:
        """Check the two together. The error names the one to add or change."""
        if self.cell is None and self.cells > 1:
            raise ValueError(f"ELS_CELL: is needed with ELS_CELLS={self.cells}")
        if self.cell is not None and self.cell >= self.cells:
            numbers = "0" if self.cells == 1 else f"from 0 to {self.cells - 1}"
            raise ValueError(f"ELS_CELL: should be {numbers} with ELS_CELLS={self.cells}, and not {self.cell}")
        if count := len(self.urls_of_cells):
            if count % self.cells or count & (count - 1):
                raise ValueError(f"ELS_CELL_DATABASE_URLS: should have {self.cells} URLs with ELS_CELLS={self.cells}")
            try:
                slices = list(self.url_of_cell)
            except ValueError as error:
                raise ValueError(f"ELS_CELL_DATABASE_URLS: {error}") from None
            if self.slice not in slices:
                names = ", ".join(map(str, slices))
                raise ValueError(f"ELS_CELL_DATABASE_URLS: has {names}, and this process is {self.slice}")
        return self

"""The tables of docs/reruns.md as tests: what the next run does after a change."""

from collections.abc import Callable

from workflow_project import REPOSITORY, Project

NOTHING: dict[str, int] = {}
SECOND_PART = "## Networks and checkpoints of your own"  # the heading between the two tables
Change = Callable[[Project], None]


class RerunTable(list[tuple[str, dict[str, int], Change]]):
    """Rows (first cell of the documented one, what runs again, the change), in their order."""

    def row(self, title: str, again: dict[str, int]) -> Callable[[Change], Change]:
        """A row, for the change that follows."""

        def add(change: Change) -> Change:
            self.append((title, again, change))
            return change

        return add

    @property
    def cases(self) -> dict[str, list]:
        """For `parametrize`: `again` and `change` of every row, by its title."""
        return {"argvalues": [row[1:] for row in self], "ids": [row[0] for row in self]}

    @property
    def documented(self) -> list[tuple[str, bool]]:
        """What the page has to say: titles, and whether nothing runs again."""
        return [(title, again == NOTHING) for title, again, _ in self]


def page(part: int) -> list[tuple[str, bool]]:
    """What the page says, before (0) and after (1) the heading between its tables."""
    lines = (REPOSITORY / "docs" / "reruns.md").read_text().split(SECOND_PART)[part].splitlines()
    table = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines if line.startswith("| ")]
    return [(cells[0], cells[1].startswith("nothing")) for cells in table if cells[0] != "Change"]

"""Links in the documents lead to existing files, folders and headings."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
PAGES = [*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md"), *(ROOT / "tests").rglob("*.md")]
CODE = re.compile(r"^```.*?^```|`[^`\n]*`", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"\]\(([^)\s]+)\)")


def links(page: Path) -> list[str]:
    """Returns the targets of a page's links within the repository."""
    return [target for target in LINK.findall(CODE.sub("", page.read_text())) if "://" not in target]


def anchors(page: Path) -> set[str]:
    """Returns the anchors of a page's headings, as the hosting site names them."""
    text = re.sub(r"^```.*?^```", "", page.read_text(), flags=re.MULTILINE | re.DOTALL)
    headings = re.findall(r"^#+ (.+)$", text, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_the_links_of_a_page_lead_somewhere(page: Path) -> None:
    broken = []
    for target in links(page):
        path, _, anchor = target.partition("#")
        meant = (page.parent / path).resolve() if path else page
        if not meant.exists() or (anchor and anchor not in anchors(meant)):
            broken.append(target)
    assert broken == []


def test_every_page_of_docs_is_reached_from_the_readme() -> None:
    reached, ahead = set[Path](), [ROOT / "README.md"]
    while ahead:
        page = ahead.pop()
        if page not in reached:
            reached.add(page)
            meant = [(page.parent / target.partition("#")[0]).resolve() for target in links(page)]
            ahead += [each for each in meant if each.suffix == ".md" and each.exists()]
    decisions = ROOT / "docs" / "decisions"
    pages = {page for page in (ROOT / "docs").rglob("*.md") if page.parent != decisions}
    assert pages - reached == set()


def test_the_table_of_packages_names_every_module_of_the_service() -> None:
    page = (ROOT / "docs" / "architecture.md").read_text()
    modules = {path.stem for path in (ROOT / "service").rglob("*.py")} - {"__init__"}
    assert {module for module in modules if f"`{module}`" not in page} == set()

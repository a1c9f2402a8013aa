"""The check of words finds the patterns of the glossary where they apply, and nothing else."""

from docs.words import GLOSSARY, findings, words

AVOIDED = words(GLOSSARY.read_text())


def test_every_row_of_the_table_is_read() -> None:
    rows = [line for line in GLOSSARY.read_text().splitlines() if line.startswith(("| identifier", "| phrase"))]
    assert len(AVOIDED) == len(rows) > 20


def test_an_identifier_is_found_as_a_whole_name_in_code_alone() -> None:
    code = "def seat(uploads): ...\nseating_plan = 1  # seat\n"
    assert list(findings("service/store/slots.py", code, AVOIDED)) == [
        "service/store/slots.py:1: `seat`; say `Assign`, `assign_slots`, unassigned"
    ]
    assert list(findings("docs/architecture.md", "a `seat` in a sentence", AVOIDED)) == []


def test_a_phrase_is_found_in_documents_and_comments_and_not_in_tests() -> None:
    text = '"""The deciding row\nis locked."""\n'
    assert len(list(findings("service/x.py", text, AVOIDED))) == 1
    assert len(list(findings("docs/x.md", text, AVOIDED))) == 1
    assert list(findings("tests/unit/x.py", text, AVOIDED)) == []


def test_a_word_is_allowed_where_its_row_says_so() -> None:
    code = 'trouble = "trouble"\n'
    assert list(findings("service/runtime/logging.py", "trouble = 1\n", AVOIDED)) == []
    assert list(findings("service/runtime/loop.py", code, AVOIDED))

"""Each promise of the documentation is held by a test, and each test says which one it holds."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

from testtools.assertions import assert_that
from testtools.matchers import Equals

from tests.docs.promises import disclaimed, held, held_below, promised
from tests.docs.test_snippets import DOCUMENTS

TESTS = Path(__file__).parents[1]
TEXTS = [document.read_text(encoding="utf-8") for document in DOCUMENTS]
PROMISED = Counter(name for text in TEXTS for name in promised(text))
WITHOUT_A_TEST = {name for text in TEXTS for name in disclaimed(text)}


def test_no_two_promises_have_one_name() -> None:
    assert_that([name for name, times in PROMISED.items() if times > 1], Equals([]))


def test_every_promise_is_held_by_a_test() -> None:
    assert_that(sorted(set(PROMISED) - WITHOUT_A_TEST - held_below(TESTS)), Equals([]))


def test_every_promise_that_a_test_holds_stands_in_a_document() -> None:
    assert_that(sorted(held_below(TESTS) - set(PROMISED)), Equals([]))


def test_promises_are_found_wherever_a_document_makes_them() -> None:
    text = (
        "### C1. A clause\n\nText.\n\n### 2. A class\n\nDoes not apply: nothing.\n\n## More\n\n"
        "Promises: `one`, `another-one`\n\n| R3 | get | a row |\n"
    )
    assert_that(sorted(promised(text)), Equals(["C1", "R3", "another-one", "one", "security-2"]))
    assert_that(list(disclaimed(text)), Equals(["security-2"]))


def test_marks_are_found_on_modules_classes_and_tests_and_nowhere_else() -> None:
    module = """
pytestmark = [pytest.mark.slow, pytest.mark.promise("a")]
@pytest.mark.promise("b", "c")
class TestIt:
    @pytest.mark.parametrize("x", [1])
    @pytest.mark.promise("d")
    def test_it(self, x): ...
    @pytest.mark.promise("not held")
    def helper(self): ...
@pytest.mark.promise("e")
def test_that(): ...
"""
    assert_that(
        list(held(module)),
        Equals(
            [
                ("a", ""),
                ("b", "TestIt"),
                ("c", "TestIt"),
                ("d", "TestIt::test_it"),
                ("e", "test_that"),
            ]
        ),
    )

"""The exercises: each has a place for an answer, a check that tells right from wrong, and a solution."""

import doctest
import importlib
import inspect
import pkgutil
from pathlib import Path

import nbformat
import pytest

from workbook import checks

ROOT = Path(__file__).resolve().parents[2]
CHAPTERS = sorted(module.name for module in pkgutil.iter_modules(checks.__path__))


def functions(chapter):
    module = importlib.import_module(f"workbook.checks.{chapter}")
    found = inspect.getmembers(module, inspect.isfunction)
    return {name: each for name, each in found if each.__module__ == module.__name__ and name[0] != "_"}


def cells(chapter, tag):
    (path,) = (ROOT / "notebooks").glob(f"{chapter.removeprefix('chapter_')}_*.ipynb")
    return [cell for cell in nbformat.read(path, 4).cells if tag in cell.metadata.get("tags", [])]


@pytest.mark.parametrize("chapter", CHAPTERS)
def test_a_check_shows_a_right_and_a_wrong_answer_that_the_doctests_run(chapter):
    assert functions(chapter)
    for name, check in functions(chapter).items():
        assert "'Right. " in check.__doc__, name
        assert "'Not yet. " in check.__doc__, name


@pytest.mark.parametrize("chapter", CHAPTERS)
def test_every_exercise_has_an_answer_a_check_and_a_folded_solution(chapter):
    names = functions(chapter)
    answers, checked, solved = (cells(chapter, tag) for tag in ("answer", "check", "solution"))
    assert len(answers) == len(checked) == len(solved) == len(names) >= 3
    for name in names:
        assert sum(f"check.{name}(" in cell.source for cell in checked) == 1, name
        assert sum(f"check.{name}(" in cell.source for cell in solved) == 1, name
    for cell in answers:
        assert "..." in cell.source
        assert not cell.outputs
    for cell in checked:
        assert [output.text.strip() for output in cell.outputs] == [checks.UNANSWERED]
    for cell in solved:
        assert cell.metadata.jupyter.source_hidden
        assert "Right. " in "".join(output.get("text", "") for output in cell.outputs)


def first_call(check):
    """The answer and the facts of a check's first example."""
    calls, names = [], dict(vars(inspect.getmodule(check)))

    def spy(answer, **facts):
        calls.append((answer, facts))
        return check(answer, **facts)

    names[check.__name__] = spy
    for example in doctest.DocTestParser().get_examples(check.__doc__):
        exec(example.source, names)
    return calls[0]


@pytest.mark.parametrize("chapter", CHAPTERS)
def test_an_answer_of_another_kind_gets_the_hint_that_says_which_kind_is_wanted(chapter, capsys):
    for name, check in functions(chapter).items():
        right, facts = first_call(check)
        assert check(right, **facts).startswith("Right. "), name
        others = {
            int: ["x", "42 GB", "42", None, [4, 2], {4}],
            set: ["x", None, 4],
            tuple: ["ab", None, {4, 2}],
        }
        kind = int if type(right) is float else type(right)
        said = {check(other, **facts) for other in others.get(kind, ())}
        assert len(said) <= 1, name
        assert kind is not int or said == {
            "Not yet. A number is wanted, without quotes and without a unit."
        }, name

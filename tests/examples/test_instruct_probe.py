"""The instruct probe: which questions a source file answers, and what its intervals hold."""

from __future__ import annotations

import importlib.util
import sys
from types import ModuleType

import numpy as np
import pytest

from places import ROOT
from unembed.demo import Document


def example() -> ModuleType:
    path = ROOT / "examples" / "instruct_probe.py"
    spec = importlib.util.spec_from_file_location("instruct_probe", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


probe = example()

SOURCE = '''
class Reader(base.Source, Closing):
    """Reads lines from a file that is open. And more."""

    def read(self, size, /, limit=None, *, strict=True):
        """Return the next line of the file.

        Not this.
        """
        if size < 0:
            raise ValueError("size must not be negative")
        raise errors.Closed("the file \\udc80 is closed")
'''


def test_questions_are_what_a_source_file_says() -> None:
    found = probe.asked(Document("io/reader.py", SOURCE))
    answers = {one.kind: (one.prompt, one.completion) for one in found}
    heading = "read(self, size, /, limit=None, *, strict=True)"
    sentence = "Return the next line of the file."
    assert answers == {
        "class": (
            "Question: What is the class Reader?\nAnswer:",
            " Reads lines from a file that is open.\n",
        ),
        "base": (
            "Question: Which class does Reader of io/reader extend?\nAnswer:",
            " Source, Closing\n",
        ),
        "function": (f"Question: What does {heading} do?\nAnswer:", f" {sentence}\n"),
        "name": (f"Question: Which function does this? {sentence}\nAnswer:", " read\n"),
        "default": (
            f"Question: What is limit by default in {heading.replace('limit=None', 'limit')}?"
            "\nAnswer:",
            " None\n",
        ),
        "exception": (
            'Question: Which exception says "size must not be negative"?\nAnswer:',
            " ValueError\n",
        ),
    }
    assert found == probe.asked(Document("io/reader.py", SOURCE))
    assert probe.asked(Document("bad.py", "def broken(:")) == []


def test_one_answer_is_not_asked_for_all_over_a_document() -> None:
    text = "\n".join(f"class Case{i}(TestCase): pass" for i in range(9))
    assert len(probe.asked(Document("cases.py", text))) == probe.SAME_ANSWERS


def test_an_interval_holds_documents_and_seeds() -> None:
    rng = np.random.default_rng(0)
    document = np.repeat(np.arange(40), 5)
    draws = np.concatenate([np.ones((1, 40), int), rng.multinomial(40, [1 / 40] * 40, 500)])
    side = probe.Side(document, np.array(["content"] * 200), draws)
    values = rng.normal(0, 1, 200)
    chosen = np.arange(200) % 2 == 0
    total = side.totals(values, chosen)
    assert total[0] == pytest.approx(values[chosen].sum())
    one = probe.Interval.of([total])
    assert one.low < one.value == total[0] < one.high
    seeds = probe.Interval.of([total, total + 10, total - 10])
    assert seeds.value == pytest.approx(one.value)
    # Student's t of two degrees, times the standard error of three seeds.
    reach = np.hypot(one.value - one.low, 4.30265 * 10 / np.sqrt(3))
    assert seeds.value - seeds.low == pytest.approx(reach, rel=1e-4)
    assert one.written(1).startswith(("+", "−"))

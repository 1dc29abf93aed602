"""The glossary: sentences that fit into a line of hover text."""

from unembed.report.parts.glossary import GLOSSARY


def test_a_meaning_is_one_short_sentence() -> None:
    assert len(GLOSSARY) > 40
    for term, meaning in GLOSSARY.items():
        assert meaning[0].isupper(), term
        assert meaning.endswith("."), term
        assert ". " not in meaning, term
        assert len(meaning) <= 170, term


def test_no_two_terms_differ_by_their_capitals_alone() -> None:
    assert len({term.lower() for term in GLOSSARY}) == len(GLOSSARY)

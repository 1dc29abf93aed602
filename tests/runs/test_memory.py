from __future__ import annotations

from pathlib import Path

import pytest

from unembed.errors import UnembedError
from unembed.runs import memory
from unembed.runs.memory import check_memory, free_memory


def test_what_does_not_fit_is_refused_with_its_remedy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    said = tmp_path / "meminfo"
    said.write_text("MemTotal:  9 kB\nMemAvailable:       2000 kB\n")
    monkeypatch.setattr(memory, "MEMINFO", said)
    assert free_memory() == 2000 * 1024
    check_memory(2_000_000, "the sums", "take fewer")
    with pytest.raises(UnembedError) as caught:
        check_memory(3_000_000, "the sums", "take fewer")
    plain = str(caught.value).replace("\u00a0", " ")
    assert plain == "the sums take 3.00 MB of memory, and 2.05 MB are free: take fewer"


@pytest.mark.parametrize("text", [None, "", "MemAvailable: many kB", "MemAvailable:"])
def test_a_system_that_does_not_say_is_taken_to_have_room(
    text: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    said = tmp_path / "meminfo"
    if text is not None:
        said.write_text(text)
    monkeypatch.setattr(memory, "MEMINFO", said)
    assert free_memory() is None
    check_memory(1 << 60, "the sums", "take fewer")

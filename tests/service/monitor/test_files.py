from __future__ import annotations

from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.numpy import save_file

from gro.errors import DataError
from gro.service.monitor.calibration import Calibration
from gro.service.monitor.files import read, write


def test_a_calibration_comes_back_and_judges_alike(calibration: Calibration, world: Any, tmp_path: Path) -> None:
    write(tmp_path / "c.safetensors", calibration)
    back = read(tmp_path / "c.safetensors")
    one, other = calibration.monitor(), back.monitor()
    w = world(20)
    for call in w.calls("one", 60, w.person(0.9)):
        args = (call.account, call.history, call.listed, call.time)
        assert one.observe(*args) == other.observe(*args)
    assert (back.false_alarms, back.confidence, back.accounts) == (0.01, 0.9, 260)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=60, deadline=None)
@given(place=st.floats(0, 1, exclude_max=True), flip=st.integers(1, 255))
def test_a_flipped_byte_is_refused_or_a_calibration_of_finite_numbers(
    calibration: Calibration, tmp_path: Path, place: float, flip: int
) -> None:
    path = tmp_path / "c.safetensors"
    write(path, calibration)
    content = bytearray(path.read_bytes())
    content[int(place * len(content))] ^= flip
    path.write_bytes(content)
    with suppress(DataError):
        assert np.isfinite(read(path).detector.covariances).all()


@pytest.mark.parametrize("content", [b"", b"{}", b"\x80\x04N.", b"\xff" * 100])
def test_other_files_are_refused_in_one_line(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "x").write_bytes(content)
    with pytest.raises(DataError, match="not a calibration") as caught:
        read(tmp_path / "x")
    assert "\n" not in str(caught.value)


def test_other_arrays_are_refused(tmp_path: Path) -> None:
    save_file({"weights": np.zeros(3)}, tmp_path / "x")
    with pytest.raises(DataError, match="its format is None"):
        read(tmp_path / "x")


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"nothing\.safetensors"):
        read(tmp_path / "nothing.safetensors")

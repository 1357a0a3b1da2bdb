"""The page about exports: what it shows runs as it is written, and what it promises of Octave is so."""

from __future__ import annotations

import re
import shutil
import subprocess

import pytest

from scidaq.query import Reader
from scidaq.store import verify
from tests.docs.commands import ROOT, Newcomer, blocks

PAGE = ROOT / "docs" / "export.md"


@pytest.fixture(scope="module")
def newcomer(tmp_path_factory: pytest.TempPathFactory) -> tuple[Newcomer, str]:
    """One who has typed all commands of the page, and what they said."""
    one, said = Newcomer(tmp_path_factory.mktemp("export")), ""
    for code in blocks(PAGE):
        if code.language == "sh":
            said += one.do(code)
    return one, said


@pytest.mark.slow
def test_all_of_it_runs(newcomer: tuple[Newcomer, str]) -> None:
    one, said = newcomer
    assert "Traceback" not in said
    assert "fast.wave.parquet: " in said
    assert "wave.h5: OK" in said
    assert re.search(r"evening.parquet: [\d,]+ rows in \d+ tables", said)
    assert "all is well" in said
    assert (one.directory / "dmm.readings.csv-metadata.json").exists()
    assert verify(one.directory / "again").ok
    assert Reader(one.directory / "again").names() == Reader(one.directory / "scidaq-demo").names()


@pytest.mark.slow
@pytest.mark.requires("Octave", shutil.which("octave") is not None, "apt install octave")
def test_octave_loads_hdf5(newcomer: tuple[Newcomer, str]) -> None:
    (code,) = (one.text for one in blocks(PAGE) if one.language == "octave")
    command = ["octave", "--no-gui", "-q", "--eval", code]
    done = subprocess.run(command, cwd=newcomer[0].directory, capture_output=True, text=True, timeout=60, check=False)
    assert re.search(r"^\d+ rows of \d+ in [01]\.\d+ s$", done.stdout, re.MULTILINE), done.stdout + done.stderr
    assert "HDF5" not in done.stderr


@pytest.mark.slow
def test_what_matlab_is_told_to_read_is_there(newcomer: tuple[Newcomer, str]) -> None:
    import h5py

    (code,) = (one.text for one in blocks(PAGE) if one.language == "matlab")
    with h5py.File(newcomer[0].directory / "wave.h5") as file:
        for path, attribute in re.findall(r"'(/entry/[\w/]+)'(?:, '(\w+)')?", code):
            assert path in file
            assert not attribute or attribute in file[path].attrs, attribute

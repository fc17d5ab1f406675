from __future__ import annotations

import io
import logging
import subprocess
import sys
import urllib.error
import urllib.request
import zipfile
from collections.abc import Callable
from email.message import Message
from pathlib import Path

import pytest

import gro.data
from gro.config import DataSettings
from gro.data import sources
from gro.errors import DataError

Write = Callable[..., DataSettings]

FILE = b"user_id:token\titem_id:token\ttimestamp:float\n" + b"".join(b"u\ti%d\t%d\n" % (i, i) for i in range(5))
URL = "https://example.org/Some_Set.zip"


class Response(io.BytesIO):
    def __init__(self, content: bytes, url: str = URL, size: int | None = None) -> None:
        super().__init__(content)
        self.url = url
        self.headers = Message()
        self.headers["Content-Length"] = str(len(content) if size is None else size)

    def geturl(self) -> str:
        return self.url


def archive(**files: bytes) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as bundle:
        for name, content in files.items():
            bundle.writestr(name, content)
    return buffer.getvalue()


@pytest.fixture
def serve(monkeypatch: pytest.MonkeyPatch) -> Callable[[Response | Exception], None]:
    monkeypatch.setattr(sources, "addresses", lambda: {"some-set": URL})

    def serve(answer: Response | Exception) -> None:
        def urlopen(url: str, timeout: float) -> Response:
            assert (url, timeout > 0) == (URL, True)
            if isinstance(answer, Exception):
                raise answer
            return answer

        monkeypatch.setattr(urllib.request, "urlopen", urlopen)

    return serve


Serve = Callable[[Response | Exception], None]


def test_download_goes_to_the_cache_once(serve: Serve, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    serve(Response(archive(**{"README": b"x", "../../../Some_Set.inter": FILE, "a.item": b"y"})))
    caplog.set_level(logging.INFO)
    settings = DataSettings(dataset="some-set")
    source = gro.data.find(settings)
    assert (source.origin, source.path) == ("download", tmp_path / "cache/datasets/some-set/some-set.inter")
    assert source.path.read_bytes() == FILE
    assert source.sha256 in caplog.text
    serve(OSError("asked again"))
    assert gro.data.find(settings).origin == "cache"
    assert gro.data.load(settings).n_items == 5
    assert [p for p in tmp_path.rglob("*") if p.is_file()] == [source.path]


GOOD = archive(**{"some-set.inter": FILE})
BAD_ANSWERS: dict[str, tuple[Callable[[], Response | Exception], str]] = {
    "offline": (lambda: urllib.error.URLError("no route"), r"cannot download https://example.org.*no route.*data_path"),
    "slow": (lambda: TimeoutError("timed out"), "timed out"),
    "cut short": (lambda: Response(GOOD[:-9], size=len(GOOD)), "bytes arrived"),
    "not a zip": (lambda: Response(b"<html>"), "not a sound zip"),
    "damaged": (lambda: Response(GOOD[:60] + b"\0\0\0\0" + GOOD[64:]), "not a sound zip"),
    "plain http": (lambda: Response(GOOD, url="http://example.org/x.zip"), "not an https address"),
    "a bomb": (lambda: Response(archive(**{"x.inter": bytes(10_000_000)})), "would unpack to 10000000 bytes"),
    "no .inter": (lambda: Response(archive(**{"x.item": FILE})), "holds none"),
    "two .inter": (lambda: Response(archive(**{"a.inter": FILE, "b.inter": FILE})), "holds a.inter, b.inter"),
}


@pytest.mark.parametrize(("answer", "message"), BAD_ANSWERS.values(), ids=BAD_ANSWERS.keys())
def test_failed_download_is_one_line_and_leaves_nothing(
    serve: Serve, tmp_path: Path, answer: Callable[[], Response | Exception], message: str
) -> None:
    serve(answer())
    with pytest.raises(DataError, match=message) as caught:
        gro.data.find(DataSettings(dataset="some-set"))
    assert "\n" not in str(caught.value)
    assert not [p for p in tmp_path.rglob("*") if p.is_file()]
    assert list((tmp_path / "cache" / "datasets").iterdir()) == []


def test_full_disk_is_one_line(serve: Serve, tmp_path: Path) -> None:
    serve(Response(GOOD))
    (tmp_path / "cache").write_text("a file in the way")
    with pytest.raises(DataError, match="cannot download"):
        gro.data.find(DataSettings(dataset="some-set"))


def test_data_path_comes_before_environment_before_bundled(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    for folder in ("one", "two"):
        path = tmp_path / folder / "ml-100k" / "ml-100k.inter"
        path.parent.mkdir(parents=True)
        path.write_bytes(FILE)
    if sources.addresses():
        assert gro.data.find(DataSettings(dataset="ml-100k")).origin == "recbole"
        assert "checksum" not in caplog.text
    monkeypatch.setenv("GRO_DATA_PATH", str(tmp_path / "two"))
    assert gro.data.find(DataSettings(dataset="ml-100k")).path == tmp_path / "two/ml-100k/ml-100k.inter"
    chosen = gro.data.find(DataSettings(dataset="ml-100k", data_path=tmp_path / "one"))
    assert (chosen.origin, chosen.path) == ("data_path", tmp_path / "one/ml-100k/ml-100k.inter")
    assert "not the card's" in caplog.text


def test_unknown_dataset_names_the_nearest(write: Write) -> None:
    settings = write(FILE)
    with pytest.raises(DataError, match=r"no dataset 'toyy' at .*toyy.inter.* Did you mean 'toy'\?"):
        gro.data.find(settings.model_copy(update={"dataset": "toyy"}))
    with pytest.raises(DataError, match=r"Did you mean 'ml-100k'\?"):
        gro.data.find(DataSettings(dataset="ml-100"))


def test_nothing_is_downloaded_into_a_chosen_data_path(serve: Serve, write: Write) -> None:
    serve(AssertionError("downloaded"))
    with pytest.raises(DataError, match=r"some-set.inter; leave data_path out to download it"):
        gro.data.find(write(FILE).model_copy(update={"dataset": "some-set"}))


@pytest.mark.parametrize("name", ["", "..", "../toy", "/etc/passwd", "a/b"])
def test_dataset_is_a_name_not_a_path(name: str) -> None:
    with pytest.raises(DataError, match="it must be a name"):
        gro.data.find(DataSettings(dataset=name))


def test_missing_data_path_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(DataError, match=r"data_path is .*nowhere.*no such folder"):
        gro.data.find(DataSettings(dataset="toy", data_path=tmp_path / "nowhere"))
    monkeypatch.setenv("GRO_DATA_PATH", str(tmp_path / "nowhere"))
    with pytest.raises(DataError, match=r"GRO_DATA_PATH is .*nowhere.*no such folder"):
        gro.data.find(DataSettings(dataset="toy"))


def test_without_recbole_the_error_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sources, "_recbole_folder", lambda: None)
    with pytest.raises(DataError, match="recbole, which brings ml-100k and the download addresses, is not installed"):
        gro.data.find(DataSettings(dataset="ml-100k"))


def test_available_lists_cards_and_local_files(write: Write) -> None:
    settings = write(FILE)
    rows = {row.name: row for row in gro.data.available(settings.data_path)}
    assert rows["toy"].card is None
    assert rows["toy"].source is not None
    assert rows["toy"].source.origin == "data_path"
    assert rows["ml-1m"].card is not None
    assert rows["ml-1m"].source is None


def test_recboles_addresses_are_read_without_importing_it() -> None:
    pytest.importorskip("recbole")
    code = (
        "import sys, gro.data, gro.data.sources as s; urls = s.addresses(); "
        "gro.data.load(gro.data.DataSettings(dataset='ml-100k')); "
        "assert len(urls) > 100 and urls['ml-1m'].startswith('https://'), urls; "
        "assert not {'recbole', 'torch', 'ray'} & sys.modules.keys()"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=Path(gro.data.__file__).parents[2])

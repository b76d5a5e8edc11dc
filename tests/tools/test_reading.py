from __future__ import annotations

import base64
import io
import random
import struct
import subprocess
import sys
import zlib
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from langchain_vers.errors import BadInput
from langchain_vers.tools.reading import Kind, describe_binary, image_block, page_text, sniff, too_large


def test_a_small_file_is_one_page() -> None:
    for text in ("a", "a\nb", "a\r\nb\r\n", "\n", "é\x0cb\x1b[0m\u2028\n"):
        page = page_text(text.encode())
        assert (page.text, page.notice, page.truncated, page.next_offset) == (text, None, False, None)
    assert page_text(b"\xef\xbb\xbfa\n").text == "a\n"
    empty = page_text(b"")
    assert (empty.text, empty.notice, empty.total_lines) == ("", "[The file is empty.]", 0)
    assert page_text(b"\xef\xbb\xbf").notice == "[The file is empty.]"


def test_pages_by_lines() -> None:
    data = b"".join(b"%d\n" % number for number in range(1, 5001))
    page = page_text(data)
    assert page.notice == "[Showing lines 1-2000 of 5000 (2000 line limit). Use offset=2001 to continue.]"
    assert page_text(data, offset=2001).text.startswith("2001\n")
    assert page_text(data, offset=4001).notice is None
    assert page_text(data, offset=10, limit=2).notice == "[Showing lines 10-11 of 5000. Use offset=12 to continue.]"
    assert page_text(data, offset=10, limit=2).text == "10\n11\n"
    assert page_text(data, offset=5000, limit=9).text == "5000\n"


def test_pages_by_bytes() -> None:
    page = page_text(b"123456789\n" * 100, max_bytes=95)
    assert page.last_line == 9 and page.notice == "[Showing lines 1-9 of 100 (95 bytes limit). Use offset=10 to continue.]"
    assert page_text(b"\xff\xff\xff\nab\n", max_bytes=11).text == "\ufffd" * 3 + "\n"
    assert "not UTF-8" in (page_text(b"\xe9t\xe9\n").notice or "")


@given(st.text(alphabet="aé\n\r\U0001f600", max_size=120), st.integers(1, 5), st.integers(10, 40))
def test_pages_make_up_the_file(text: str, max_lines: int, max_bytes: int) -> None:
    offset: int | None = 1
    parts = []
    while offset is not None:
        page = page_text(text.encode(), offset=offset, max_lines=max_lines, max_bytes=max_bytes)
        if page.truncated and not page.text:
            return  # a line that is too long
        assert len(page.text.encode()) <= max_bytes and page.last_line - page.first_line < max_lines
        assert page.next_offset is None or f"offset={page.next_offset} " in (page.notice or "")
        parts.append(page.text)
        offset = page.next_offset
    assert "".join(parts) == text


@pytest.mark.parametrize("ending", [b"\n", b"\r"])
def test_a_line_that_is_too_long_says_how_to_see_it(tmp_path: Path, ending: bytes) -> None:
    target = tmp_path / "it's big"
    data = ending.join([b"a", b"x" * 300 + b"y" * 300, b"c", b""])
    target.write_bytes(data)
    page = page_text(data, offset=2, path=str(target), max_bytes=300)
    assert page.text == "" and page.notice and page.next_offset == 3 and "offset=3" in page.notice
    command = page.notice.partition("with bash: ")[2].partition(" (and")[0]
    assert subprocess.run(["sh", "-c", command], capture_output=True, check=True).stdout == b"x" * 300
    assert page_text(data, path=str(target), max_bytes=300).last_line == 1


def test_impossible_pages() -> None:
    with pytest.raises(BadInput, match="past the end of x, which has 2 lines"):
        page_text(b"a\nb", offset=3, path="x")
    with pytest.raises(BadInput, match="0 lines"):
        page_text(b"", offset=2)
    for offset, limit in ((0, None), (-1, 5), (1, 0)):
        with pytest.raises(BadInput):
            page_text(b"a", offset=offset, limit=limit)


def picture(kind: str, size: tuple[int, int], mode: str = "RGB", noise: bool = False) -> bytes:
    image = (
        Image.frombytes("RGB", size, random.Random(1).randbytes(size[0] * size[1] * 3)).convert(mode) if noise else Image.new(mode, size)
    )
    buffer = io.BytesIO()
    image.save(buffer, kind)
    return buffer.getvalue()


def test_sniff() -> None:
    for kind in ("png", "jpeg", "gif", "webp"):
        assert sniff(picture(kind, (3, 3))) == Kind("image", f"image/{kind}")
    with open(sys.executable, "rb") as file:
        assert sniff(file.read(8192)).name in ("ELF program or library", "Mach-O program", "Java class or Mach-O program")
    for data, name in (
        (zlib.compress(b"x") + b"\0", "data"),
        (b"\x1f\x8b\x08", "gzip data"),
        (b"%PDF-1.7\n", "PDF document"),
        (b"SQLite format 3\0", "SQLite database"),
        (b"\xff\xfeh\0i\0", "UTF-16 text; convert it with iconv"),
        (b"", "text"),
        (b"plain \xe9\n", "text"),
        (b"PAR1 is a word", "text"),
        (b"\x1b[0m", "text"),
    ):
        assert sniff(data).name == name
    assert describe_binary("/x", Kind("binary", "gzip data"), 2048) == "/x is not text: gzip data, 2.0KB. Use bash to look into it."
    assert "sed -n '1,200p' '/a b'" in too_large("/a b", 2**30)


def shown(block: object) -> tuple[Image.Image, str]:
    assert isinstance(block, dict) and block["type"] == "image"
    image = Image.open(io.BytesIO(base64.b64decode(block["base64"])))
    image.load()
    return image, block["mime_type"]


def test_images_that_fit_are_not_touched() -> None:
    for kind in ("png", "jpeg", "gif", "webp"):
        data = picture(kind, (20, 10))
        block = image_block(data, f"image/{kind}")
        assert isinstance(block, dict) and base64.b64decode(block["base64"]) == data and block["mime_type"] == f"image/{kind}"


@pytest.mark.parametrize(
    ("kind", "mode"), [("png", "RGBA"), ("png", "P"), ("png", "L"), ("jpeg", "RGB"), ("jpeg", "CMYK"), ("gif", "P"), ("webp", "RGBA")]
)
def test_large_images_are_made_smaller(kind: str, mode: str) -> None:
    image, mime = shown(image_block(picture(kind, (3000, 1500), mode), f"image/{kind}"))
    assert image.size == (2000, 1000) and mime in ("image/png", "image/jpeg")


def test_images_of_many_bytes_are_made_smaller() -> None:
    for kind, mode in (("png", "RGB"), ("png", "RGBA")):
        block = image_block(picture(kind, (400, 300), mode, noise=True), f"image/{kind}", max_bytes=20_000)
        image, _ = shown(block)
        assert isinstance(block, dict) and len(base64.b64decode(block["base64"])) <= 20_000 and image.width >= 64
    assert isinstance(image_block(picture("png", (400, 300), noise=True), "image/png", max_bytes=100), str)


def test_images_that_cannot_be_shown_are_a_sentence() -> None:
    def chunk(name: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))

    whole = picture("png", (300, 300), noise=True)
    for width in (9_000, 50_000):
        header = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", struct.pack(">IIBBBBB", width, width, 8, 2, 0, 0, 0))
        bomb = header + chunk(b"IDAT", zlib.compress(b"\0" * 1000)) + chunk(b"IEND", b"")
        found = image_block(bomb, "image/png")
        assert isinstance(found, str) and ("too large" in found or "too many pixels" in found)
    for broken in (whole[:2000], whole[:20], b"", b"\xff\xd8\xff\xe0 no picture"):
        found = image_block(broken, "image/png")
        assert isinstance(found, str) and "broken" in found and found.endswith(".")


def test_without_pillow(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "PIL", None)
    block = image_block(b"\x89PNG", "image/png")
    assert isinstance(block, dict) and base64.b64decode(block["base64"]) == b"\x89PNG"
    found = image_block(b"x" * 100, "image/png", max_bytes=99)
    assert isinstance(found, str) and "pillow" in found

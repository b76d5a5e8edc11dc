"""What the model sees of a file: pages of whole lines, pictures, or the name of what it is. Pure; Pillow is used where it is installed.

Fetching the bytes is left to the tool. `page_text` wants the whole file, so that it can number lines and say how many there are; for a file
too large to fetch, `too_large` says how to look at it on the machine.
"""

from __future__ import annotations

import base64
import io
import shlex
from dataclasses import dataclass
from typing import Any, Literal

from langchain_core.messages.content import ImageContentBlock, create_image_block

from langchain_vers.errors import BadInput
from langchain_vers.tools.output import MAX_BYTES, MAX_LINES, format_size

MAX_IMAGE_SIDE = 2000
MAX_IMAGE_BYTES = 3_750_000
"""Of the picture; base64 makes it 5 MB, the least that the large model providers take."""
MAX_IMAGE_PIXELS = 50_000_000
"""Of the picture as it is stored: decoding takes four bytes of memory for each."""

_BOM = b"\xef\xbb\xbf"


@dataclass(frozen=True)
class Page:
    """Some whole lines of a file."""

    text: str
    """The lines with their own line endings; a byte order mark at the beginning of the file is left out."""
    notice: str | None
    """What is shown and how to see more, in brackets; None if the page reaches the end of the file."""
    first_line: int
    """1-based; 0 if the file is empty."""
    last_line: int
    total_lines: int
    truncated: bool

    @property
    def next_offset(self) -> int | None:
        """The `offset` of the next page, None after the last."""
        return self.last_line + 1 if self.last_line < self.total_lines else None


@dataclass(frozen=True)
class Kind:
    """What a file is, by its first bytes."""

    family: Literal["text", "image", "binary"]
    name: str
    """A MIME type for an image, else words such as "ELF program" or "data"."""


_MAGIC: list[tuple[bytes, str]] = [
    (b"\x7fELF", "ELF program or library"),
    (b"PK\x03\x04", "zip archive (or a format built on it, such as docx, xlsx, jar, whl)"),
    (b"PK\x05\x06", "empty zip archive"),
    (b"\x1f\x8b", "gzip data"),
    (b"BZh", "bzip2 data"),
    (b"\xfd7zXZ\0", "xz data"),
    (b"\x28\xb5\x2f\xfd", "zstd data"),
    (b"7z\xbc\xaf\x27\x1c", "7-zip archive"),
    (b"Rar!\x1a\x07", "rar archive"),
    (b"%PDF-", "PDF document"),
    (b"SQLite format 3\0", "SQLite database"),
    (b"\xca\xfe\xba\xbe", "Java class or Mach-O program"),
    (b"\xcf\xfa\xed\xfe", "Mach-O program"),
    (b"\0asm", "WebAssembly module"),
    (b"OggS", "Ogg media"),
    (b"fLaC", "FLAC audio"),
    (b"ID3", "MP3 audio"),
    (b"\x1aE\xdf\xa3", "Matroska or WebM video"),
    (b"wOFF", "WOFF font"),
    (b"wOF2", "WOFF2 font"),
    (b"PAR1", "Parquet table"),
    (b"\x89HDF\r\n\x1a\n", "HDF5 data"),
    (b"\x93NUMPY", "NumPy array"),
    (b"!<arch>\n", "ar archive (such as deb or a static library)"),
    (b"II*\0", "TIFF image"),
    (b"MM\0*", "TIFF image"),
    (b"\0\0\x01\0", "icon"),
    (b"\xff\xfe\0\0", "UTF-32 text"),
    (b"\0\0\xfe\xff", "UTF-32 text"),
    (b"\xff\xfe", "UTF-16 text; convert it with iconv"),
    (b"\xfe\xff", "UTF-16 text; convert it with iconv"),
]


def sniff(data: bytes) -> Kind:
    """What a file with these first bytes (8 KiB suffice) is. Text is what has no NUL byte and no other known beginning."""
    if data.startswith(b"\x89PNG\r\n\x1a\n"):
        return Kind("image", "image/png")
    if data.startswith(b"\xff\xd8\xff"):
        return Kind("image", "image/jpeg")
    if data.startswith((b"GIF87a", b"GIF89a")):
        return Kind("image", "image/gif")
    if data.startswith(b"RIFF") and data[8:12] == b"WEBP":
        return Kind("image", "image/webp")
    if data.startswith(b"RIFF") and data[8:12] in (b"WAVE", b"AVI "):
        return Kind("binary", "WAV audio" if data[8:12] == b"WAVE" else "AVI video")
    if data[4:8] == b"ftyp":
        return Kind("binary", "MP4 or related media")
    for magic, name in _MAGIC:
        if data.startswith(magic):
            # These few letters may begin an ordinary text as well.
            if magic.isascii() and magic.isalnum() and b"\0" not in data[:8192]:
                continue
            return Kind("binary", name)
    if data[257:262] == b"ustar":
        return Kind("binary", "tar archive")
    if b"\0" in data[:8192]:
        return Kind("binary", "data")
    return Kind("text", "text")


def describe_binary(path: str, kind: Kind, size: int) -> str:
    """The sentence that stands for a binary file."""
    return f"{path} is not text: {kind.name}, {format_size(size)}. Use bash to look into it."


def _word(path: str) -> str:
    """The path as a word of a shell command; a leading `~/` keeps its meaning."""
    return f"~/{shlex.quote(path[2:])}" if path.startswith("~/") else shlex.quote(path)


def too_large(path: str, size: int) -> str:
    """The sentence for a file that is too large to be fetched for paging."""
    command = f"sed -n '1,200p' {_word(path)} | head -c {MAX_BYTES}"
    return f"{path} is {format_size(size)}, too large for read; see a part of it with bash: {command}"


def page_text(
    data: bytes,
    *,
    offset: int = 1,
    limit: int | None = None,
    path: str = "the file",
    max_lines: int = MAX_LINES,
    max_bytes: int = MAX_BYTES,
) -> Page:
    """Lines `offset` (from 1) and following of a whole file: `limit` of them, `max_lines`, or `max_bytes` of UTF-8, whichever is least.

    Bytes that are not UTF-8 are shown as U+FFFD, and the notice says so. In a file whose only line ending is CR, that one ends lines.

    Raises:
        BadInput: `offset` or `limit` is less than 1, or `offset` is past the end.
    """
    if offset < 1:
        raise BadInput(f"The offset is {offset}; lines are counted from 1.")
    if limit is not None and limit < 1:
        raise BadInput(f"The limit is {limit}; give at least 1.")
    body = data.removeprefix(_BOM)
    mark = b"\r" if b"\n" not in body and b"\r" in body else b"\n"
    total = body.count(mark) + (0 if body.endswith(mark) or not body else 1)
    if not body and offset == 1:
        return Page("", "[The file is empty.]", 0, 0, 0, False)
    if offset > total:
        raise BadInput(f"Offset {offset} is past the end of {path}, which has {total} line{'' if total == 1 else 's'}.")
    position = 0
    for _ in range(offset - 1):
        position = body.index(mark, position) + 1
    wanted = max_lines if limit is None else min(limit, max_lines)
    start = position
    line = offset
    parts: list[str] = []
    room = max_bytes
    odd = False
    while line <= total and line - offset < wanted:
        end = body.find(mark, position) + 1 or len(body)
        if end - position > room:
            break
        raw = body[position:end]
        text = raw.decode("utf-8", "replace")
        size = len(text.encode())
        if size > room:
            break
        odd = odd or size != len(raw)
        room -= size
        parts.append(text)
        position = end
        line += 1
    if position == start:
        return _long_line(body, mark, position, line=offset, total=total, path=path, max_bytes=max_bytes)
    shown = "".join(parts).replace("\0", "�")
    last = line - 1
    notes: list[str] = []
    if last < total:
        cause = ""
        if limit is None or last - offset + 1 < limit:
            cause = f" ({max_lines} line limit)" if last - offset + 1 == max_lines else f" ({format_size(max_bytes)} limit)"
        notes.append(f"Showing lines {offset}-{last} of {total}{cause}. Use offset={last + 1} to continue.")
    if odd:
        notes.append("Bytes that are not UTF-8 are shown as �.")
    return Page(shown, f"[{' '.join(notes)}]" if notes else None, offset, last, total, last < total)


def _long_line(body: bytes, mark: bytes, position: int, *, line: int, total: int, path: str, max_bytes: int) -> Page:
    end = body.find(mark, position)
    size = (len(body) if end < 0 else end) - position
    turned = "" if mark == b"\n" else "tr '\\r' '\\n' < "
    source = f"{turned}{_word(path)} | sed -n '{line}p'" if turned else f"sed -n '{line}p' {_word(path)}"
    after = f" Use offset={line + 1} to continue behind it." if line < total else ""
    notice = (
        f"[Line {line} of {total} is {format_size(size)}, over the {format_size(max_bytes)} limit. See its beginning with bash: "
        f"{source} | head -c {max_bytes} (and further with: | tail -c +{max_bytes + 1} | head -c {max_bytes}).{after}]"
    )
    return Page("", notice, line, line, total, True)


def image_block(
    data: bytes,
    mime: str,
    *,
    max_side: int = MAX_IMAGE_SIDE,
    max_bytes: int = MAX_IMAGE_BYTES,
    max_pixels: int = MAX_IMAGE_PIXELS,
) -> ImageContentBlock | str:
    """A picture as LangChain's standard content block, made smaller if it must be; a sentence if it cannot be shown.

    The original bytes are used where they fit. Animations that have to be made smaller become their first frame.
    """
    try:
        from PIL import Image  # noqa: PLC0415 - an optional dependency
    except ImportError:
        if len(data) > max_bytes:
            what = f"The image ({mime}, {format_size(len(data))})"
            return f"{what} is too large to show; install pillow where this agent runs, or make it smaller."
        return _block(data, mime)
    try:
        # The header alone is read here, so that a small file with huge dimensions is refused before it takes memory.
        with Image.open(io.BytesIO(data), formats=[mime.removeprefix("image/").upper()]) as picture:
            width, height = picture.size
            if width * height > max_pixels:
                return f"The image ({mime}, {width} x {height} pixels) is too large to show; make it smaller with a command first."
            picture.load()
            if max(width, height) <= max_side and len(data) <= max_bytes:
                return _block(data, mime)
            small = _shrink(picture, max_side, max_bytes)
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        return f"The image ({mime}, {format_size(len(data))}) has too many pixels to show; make it smaller with a command first."
    except Exception as error:  # Pillow's decoders raise errors of many kinds for broken files
        return f"The image ({mime}, {format_size(len(data))}) is broken or of a kind that cannot be decoded: {_first_line(error)}."
    if small is None:
        return f"The image ({mime}, {width} x {height} pixels) could not be made small enough to show."
    return _block(*small)


def _block(data: bytes, mime: str) -> ImageContentBlock:
    return create_image_block(base64=base64.b64encode(data).decode("ascii"), mime_type=mime)


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0].rstrip(".")[:200]


def _shrink(picture: Any, max_side: int, max_bytes: int) -> tuple[bytes, str] | None:  # noqa: ANN401 - Pillow may not be there to name its type
    """PNG where that is small enough, else JPEG on white, each time smaller until it fits."""
    from PIL import ImageOps  # noqa: PLC0415 - an optional dependency

    picture = ImageOps.exif_transpose(picture)
    flat = picture.mode in ("RGB", "L") and picture.format == "JPEG"
    picture = picture.convert("RGBA" if "A" in picture.getbands() or "transparency" in picture.info else "RGB")
    side = max_side
    while side >= 64:
        picture.thumbnail((side, side))
        encodings: list[tuple[str, dict[str, Any]]] = [("PNG", {"optimize": True})] if not flat else []
        encodings += [("JPEG", {"quality": 85}), ("JPEG", {"quality": 60})]
        for name, options in encodings:
            target = picture
            if name == "JPEG" and picture.mode == "RGBA":
                target = picture.copy()
                white = picture.copy()
                white.paste((255, 255, 255, 255), (0, 0, *picture.size))
                white.alpha_composite(picture)
                target = white.convert("RGB")
            buffer = io.BytesIO()
            target.save(buffer, name, **options)
            if buffer.tell() <= max_bytes:
                return buffer.getvalue(), f"image/{name.lower()}"
        side //= 2
    return None

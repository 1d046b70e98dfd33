"""Every kind of image file has one stated answer."""

from __future__ import annotations

import io
import zlib
from pathlib import Path

import numpy as np
import pytest
import tifffile
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageOps

from harness.data.images import decode, decode_natural, encode_png, read_header, read_image
from harness.errors import DataError

RNG = np.random.default_rng(0)
COLOUR = RNG.integers(0, 256, (20, 30, 3), dtype=np.uint8)
GREY = RNG.integers(0, 256, (20, 30), dtype=np.uint8)


def saved(image: Image.Image, kind: str = "PNG", **values: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **values)
    return buffer.getvalue()


def test_grey_is_repeated_and_remembered():
    content = saved(Image.fromarray(GREY))
    assert np.array_equal(decode(content, "x"), np.repeat(GREY[:, :, None], 3, axis=2))
    assert read_header(content, "x").grey and not read_header(saved(Image.fromarray(COLOUR)), "x").grey
    assert np.array_equal(decode_natural(content, "x"), GREY)
    assert np.array_equal(decode_natural(saved(Image.fromarray(COLOUR)), "x"), COLOUR)


def test_16_bits_keep_their_upper_8():
    deep = RNG.integers(0, 65536, (20, 30), dtype=np.uint16)
    content = saved(Image.fromarray(deep))
    assert np.array_equal(decode(content, "x")[:, :, 0], (deep >> 8).astype(np.uint8))
    assert read_header(content, "x").grey


def test_16_bit_colours_keep_their_upper_8():
    import cv2

    deep = RNG.integers(0, 65536, (20, 30, 3), dtype=np.uint16)
    content = cv2.imencode(".png", deep[:, :, ::-1])[1].tobytes()
    assert np.array_equal(decode(content, "x"), (deep >> 8).astype(np.uint8))


def test_palettes_become_colours():
    palette = Image.fromarray(COLOUR).quantize(16)
    assert np.array_equal(decode(saved(palette), "x"), np.asarray(palette.convert("RGB")))
    assert not read_header(saved(palette), "x").grey


@pytest.mark.parametrize("mode", ["RGBA", "LA"])
def test_alpha_is_composited_on_black(mode):
    alpha = RNG.integers(0, 256, (20, 30), dtype=np.uint8)
    base = Image.fromarray(COLOUR if mode == "RGBA" else GREY)
    base.putalpha(Image.fromarray(alpha))
    expected = np.asarray(base.convert("RGBA"))[:, :, :3].astype(float) * alpha[:, :, None] / 255
    assert np.abs(decode(saved(base), "x") - expected).max() <= 1
    assert read_header(saved(base), "x").grey == (mode == "LA")


def test_cmyk_is_converted():
    cmyk = Image.fromarray(COLOUR).convert("CMYK")
    content = saved(cmyk, "TIFF")
    assert np.array_equal(decode(content, "x"), np.asarray(cmyk.convert("RGB")))


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_applied_to_pixels_and_to_the_size_that_is_told_before(orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    content = saved(Image.fromarray(COLOUR), "PNG", exif=exif)
    expected = np.asarray(ImageOps.exif_transpose(Image.open(io.BytesIO(content))))
    assert np.array_equal(decode(content, "x"), expected)
    header = read_header(content, "x")
    assert (header.height, header.width) == expected.shape[:2]


def turned_pngs() -> dict[str, bytes]:
    """A PNG that is to be turned by 90 degrees, as each kind of program says so, before the pixels and behind them."""
    exif = Image.Exif()
    exif[0x0112] = 6
    block, plain = exif.tobytes(), saved(Image.fromarray(COLOUR))
    xmp = b'<rdf:Description xmlns:tiff="http://ns.adobe.com/tiff/1.0/" tiff:Orientation="6"/>'
    said = {
        "exif": (b"eXIf", block.removeprefix(b"Exif\0\0")),
        "text": (
            b"zTXt",
            b"Raw profile type exif\0\0" + zlib.compress(b"\nexif\n%8d\n%s\n" % (len(block), block.hex().encode())),
        ),
        "xmp": (b"iTXt", b"XML:com.adobe.xmp\0\0\0\0\0" + xmp),
    }
    chunks = {
        name: len(data).to_bytes(4, "big") + kind + data + zlib.crc32(kind + data).to_bytes(4, "big")
        for name, (kind, data) in said.items()
    }
    places = {"before": 33, "behind": len(plain) - 12}
    return {f"{n} {p}": plain[:at] + chunk + plain[at:] for n, chunk in chunks.items() for p, at in places.items()}


@pytest.mark.parametrize("said", turned_pngs())
def test_the_header_of_a_png_knows_every_turn_that_decoding_applies(said):
    content = turned_pngs()[said]
    assert np.array_equal(decode(content, "x"), np.rot90(COLOUR, -1))
    header = read_header(content, "x")
    assert (header.height, header.width) == (30, 20)


def test_a_turned_tiff_has_the_size_that_it_is_decoded_to():
    exif = Image.Exif()
    exif[0x0112] = 6
    content = saved(Image.fromarray(COLOUR), "TIFF", exif=exif)
    header = read_header(content, "x")
    assert (header.height, header.width) == decode(content, "x").shape[:2] == (30, 20)


@pytest.mark.parametrize("cut", [30, 200, -30])
@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP"])
def test_truncated_images_are_refused_by_name(kind, cut):
    content = saved(Image.fromarray(COLOUR), kind)
    with pytest.raises(DataError, match=r"holiday\.img: is (damaged or truncated|not an image)"):
        decode(content[:cut], "holiday.img")


def tiff(values: np.ndarray, **said: object) -> bytes:
    buffer = io.BytesIO()
    tifffile.imwrite(buffer, values, **{"photometric": "minisblack", **said})
    return buffer.getvalue()


TWELVE_BITS = tiff(GREY[:, :20].astype(np.uint16)).replace(
    b"\x02\x01\x03\x00\x01\x00\x00\x00\x10\x00", b"\x02\x01\x03\x00\x01\x00\x00\x00\x0c\x00"
)


@pytest.mark.parametrize(
    ("content", "kind"),
    [
        (tiff(GREY.astype(np.float32)), "floating-point values"),
        (b"Pf 30 20 -1.0\n" + GREY.astype("<f4").tobytes(), "floating-point values"),
        (tiff(GREY.astype(np.int32)), "values with a sign"),
        (tiff(GREY.astype(np.int16)), "values with a sign"),
        (tiff((GREY // 2).astype(np.int8)), "values with a sign"),
        (tiff(GREY.astype(np.uint32)), "values of 32 bits"),
        (TWELVE_BITS, "values of 12 bits"),
        (tiff(GREY.astype(np.uint16), photometric="miniswhite"), "values of 16 bits with white as zero"),
        (
            tiff(COLOUR.astype(np.uint16).transpose(2, 0, 1), photometric="rgb", planarconfig="separate"),
            "values of 16 bits in separate planes",
        ),
    ],
)
def test_values_that_are_no_levels_for_certain_are_refused_before_they_are_decoded(content, kind):
    """Pillow gives them as numbers, of which most would become black, a negative, or other pixels."""
    for read in (read_header, decode):
        with pytest.raises(DataError, match=rf"x\.tif: holds {kind}, .*; convert it to a plain 8- or 16-bit image\."):
            read(content, "x.tif")


@pytest.mark.parametrize("compression", [None, "zlib"])
@pytest.mark.parametrize("byteorder", ["<", ">"])
def test_plain_tiffs_are_read(compression, byteorder):
    grey, colour = (GREY.astype(np.uint16) << 8) + 9, (COLOUR.astype(np.uint16) << 8) + 9
    said = {"compression": compression, "byteorder": byteorder}
    for values in (GREY, grey):
        assert np.array_equal(decode_natural(tiff(values, **said), "x"), GREY)
    for values in (COLOUR, colour):
        assert np.array_equal(decode(tiff(values, photometric="rgb", **said), "x"), COLOUR)
    assert np.array_equal(decode_natural(tiff(255 - GREY, photometric="miniswhite", **said), "x"), GREY)
    planes = tiff(COLOUR.transpose(2, 0, 1), photometric="rgb", planarconfig="separate", **said)
    assert np.array_equal(decode(planes, "x"), COLOUR)


@pytest.mark.parametrize("levels", [255, 1023, 65535])
def test_a_ppm_of_any_number_of_levels_is_brought_to_8_bits(levels):
    values = np.arange(levels + 1)[:: levels // 255][:256].reshape(16, 16)
    content = b"P5 16 16 %d\n" % levels + values.astype(">u2" if levels > 255 else "u1").tobytes()
    assert np.abs(decode_natural(content, "x") - values * 255 / levels).max() <= 1


def test_foreign_formats_are_refused():
    postscript = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n%%EndComments\nshowpage\n"
    with pytest.raises(DataError, match="is not an image"):
        decode(postscript, "x")


def test_a_decompression_bomb_is_refused_before_it_is_decoded(monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    with pytest.raises(DataError, match="decompression bomb"):
        decode(saved(Image.fromarray(COLOUR)), "x")
    with pytest.raises(DataError, match="decompression bomb"):
        read_header(saved(Image.fromarray(COLOUR)), "x")


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 40), st.integers(1, 40), st.booleans(), st.integers(0, 99))
def test_our_pngs_are_read_back_identically_by_pillow(height, width, grey, seed):
    shape = (height, width) if grey else (height, width, 3)
    image = np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)
    assert np.array_equal(np.asarray(Image.open(io.BytesIO(encode_png(image)))), image)


def test_missing_files_are_named(tmp_path: Path):
    with pytest.raises(DataError, match=r"absent\.png: cannot be read"):
        read_image(tmp_path / "absent.png")

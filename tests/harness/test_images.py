import io

import cv2
import numpy as np
import pytest
from PIL import Image, ImageCms, ImageOps

from harness.errors import DataError
from harness.image_writing import write_picture
from harness.images import Picture, read_picture, upright

PROFILE = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()


def values(*shape: int, dtype=np.uint8) -> np.ndarray:
    return np.random.default_rng(7).integers(0, np.iinfo(dtype).max + 1, shape, dtype=dtype)


def exif(orientation: int | None = None) -> bytes:
    block = Image.Exif()
    block[0x010F] = "a camera"
    if orientation:
        block[0x0112] = orientation
    return block.tobytes()


@pytest.mark.parametrize(
    ("suffix", "shape"),
    [(".png", (9, 7)), (".png", (9, 7, 3)), (".tif", (9, 7)), (".tif", (9, 7, 3)), (".webp", (9, 7, 3))],
)
@pytest.mark.parametrize("with_alpha", [False, True])
def test_lossless_formats_give_back_the_same_picture(tmp_path, suffix, shape, with_alpha):
    pixels = values(*shape)
    alpha = values(9, 7) // 2 * 2 % 250 if with_alpha else None  # with zeros
    path = tmp_path / f"a{suffix}"
    write_picture(path, Picture(pixels, alpha, PROFILE, exif()))
    back = read_picture(path)
    assert np.array_equal(back.pixels, pixels)
    assert (back.alpha is None) == (not with_alpha)
    if with_alpha:
        assert np.array_equal(back.alpha, alpha)
    assert back.icc_profile == PROFILE
    block = Image.Exif()
    block.load(back.exif or b"")
    assert block[0x010F] == "a camera"


@pytest.mark.parametrize("num_channels", [1, 3, 4])
def test_deep_png_is_read_as_opencv_wrote_it_and_written_as_opencv_reads_it(tmp_path, num_channels):
    array = values(300, 13, num_channels, dtype=np.uint16)
    order = {1: [0], 3: [2, 1, 0], 4: [2, 1, 0, 3]}[num_channels]
    path = tmp_path / "deep.png"
    assert cv2.imwrite(str(path), array[..., order])
    picture = read_picture(path)
    assert picture.pixels.dtype == np.uint16
    assert np.array_equal(picture.pixels, array[..., 0] if num_channels == 1 else array[..., :3])
    assert (picture.alpha is None) == (num_channels < 4)
    if num_channels == 4:
        assert np.array_equal(picture.alpha, array[..., 3])
    write_picture(tmp_path / "again.png", picture)
    again = cv2.imread(str(tmp_path / "again.png"), cv2.IMREAD_UNCHANGED)
    assert again.dtype == np.uint16 and np.array_equal(again.reshape(array.shape), array[..., order])


def test_deep_grey_with_alpha_keeps_both(tmp_path):
    picture = Picture(values(5, 4, dtype=np.uint16), values(5, 4, dtype=np.uint16)[::-1].copy(), PROFILE, exif())
    write_picture(tmp_path / "a.png", picture)
    back = read_picture(tmp_path / "a.png")
    assert np.array_equal(back.pixels, picture.pixels) and np.array_equal(back.alpha, picture.alpha)
    assert back.icc_profile == PROFILE and back.exif is not None
    with Image.open(tmp_path / "a.png") as image:
        assert image.info["icc_profile"] == PROFILE and image.getexif()[0x010F] == "a camera"


@pytest.mark.parametrize("orientation", range(1, 9))
def test_orientation_is_applied_as_pillow_applies_it(tmp_path, orientation):
    path = tmp_path / "turned.png"
    Image.fromarray(values(6, 9, 3)).save(path, exif=exif(orientation))
    picture = read_picture(path)
    with Image.open(path) as image:
        want = np.asarray(ImageOps.exif_transpose(image))
    assert np.array_equal(picture.pixels, want)
    block = Image.Exif()
    block.load(picture.exif or b"")
    assert 0x0112 not in block and block[0x010F] == "a camera"


def test_orientation_applies_to_deep_pixels_too():
    array = values(4, 6, 3, dtype=np.uint16)
    assert np.array_equal(upright(array, 6), np.rot90(array, -1))


def test_palette_with_transparency_becomes_colour_and_alpha(tmp_path):
    image = Image.fromarray(values(8, 8, 3)).quantize(8)
    image.save(tmp_path / "p.png", transparency=3)
    picture = read_picture(tmp_path / "p.png")
    with Image.open(tmp_path / "p.png") as stored:
        want = np.asarray(stored.convert("RGBA"))
    assert np.array_equal(picture.pixels, want[..., :3]) and np.array_equal(picture.alpha, want[..., 3])


def test_profile_of_another_colour_space_is_not_kept(tmp_path):
    Image.new("CMYK", (4, 4)).save(tmp_path / "c.jpg", icc_profile=b"cmyk profile")
    picture = read_picture(tmp_path / "c.jpg")
    assert picture.pixels.shape == (4, 4, 3) and picture.icc_profile is None


def test_damaged_files_are_one_sentence(tmp_path):
    buffer = io.BytesIO()
    Image.fromarray(values(64, 64, 3)).save(buffer, "PNG")
    for name, content in (("cut.png", buffer.getvalue()[:2000]), ("text.png", b"hello"), ("none.png", b"")):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(DataError, match=name) as caught:
            read_picture(tmp_path / name)
        assert "\n" not in str(caught.value)
    with pytest.raises(DataError, match="cannot be read"):
        read_picture(tmp_path / "absent.png")


@pytest.mark.parametrize("writer", ["tifffile <", "tifffile >", "opencv lzw", "opencv deflate"])
@pytest.mark.parametrize("num_channels", [3, 4])
def test_deep_tiff_is_read_as_others_wrote_it(tmp_path, writer, num_channels):
    import cv2
    import tifffile

    array = np.random.default_rng(1).integers(0, 65536, (7, 9, num_channels)).astype(np.uint16)
    extra = {"extrasamples": ["unassalpha"]} if num_channels == 4 else {}
    if writer.startswith("tifffile"):
        tifffile.imwrite(tmp_path / "a.tif", array, photometric="rgb", byteorder=writer[-1], **extra)
    else:
        kind = {"opencv lzw": 5, "opencv deflate": 8}[writer]
        bgr = array[..., [2, 1, 0, 3][:num_channels]]
        cv2.imwrite(str(tmp_path / "a.tif"), bgr, [cv2.IMWRITE_TIFF_COMPRESSION, kind])
    picture = read_picture(tmp_path / "a.tif")
    assert np.array_equal(picture.pixels, array[..., :3])
    assert picture.alpha is None if num_channels == 3 else np.array_equal(picture.alpha, array[..., 3])


@pytest.mark.parametrize(
    ("array", "kind"),
    [
        (values(7, 9).astype(np.float32), "floating-point values"),
        (values(7, 9).astype(np.int32), "values with a sign"),
        (values(7, 9).astype(np.uint32), "values of 32 bits"),
    ],
)
def test_values_whose_black_and_white_nothing_states_are_refused(tmp_path, array, kind):
    import tifffile

    tifffile.imwrite(tmp_path / "a.tif", array)
    with pytest.raises(DataError, match=rf"a\.tif: holds {kind}, .*; convert it to a plain 8- or 16-bit image\."):
        read_picture(tmp_path / "a.tif")


def test_depth_is_refused_where_it_would_be_lost(tmp_path):
    import tifffile

    deep = np.arange(5 * 6 * 3, dtype=np.uint16).reshape(5, 6, 3) * 300
    tifffile.imwrite(tmp_path / "planes.tif", deep.transpose(2, 0, 1), photometric="rgb", planarconfig="separate")
    (tmp_path / "a.ppm").write_bytes(b"P6 6 5 65535\n" + deep.astype(">u2").tobytes())
    for name, mend in (("planes.tif", "a plain 8- or 16-bit image"), ("a.ppm", "a 16-bit PNG")):
        with pytest.raises(DataError, match=mend):
            read_picture(tmp_path / name)


def test_what_described_the_old_file_is_not_kept(tmp_path):
    exif = Image.Exif()
    exif[0x010F] = "Maker"
    exif.get_ifd(0x8769)[0x9003] = "2020:01:01 00:00:00"
    exif.get_ifd(0x8769)[0xA002] = 9
    for name in ("a.jpg", "a.tif"):
        Image.fromarray(values(7, 9)).save(tmp_path / name, exif=exif)
        write_picture(tmp_path / "b.png", read_picture(tmp_path / name))
        found = Image.open(tmp_path / "b.png").getexif()
        assert dict(found) | {0x8769: None} == {0x010F: "Maker", 0x8769: None}
        if name == "a.jpg":  # Pillow writes no such block into a TIFF
            assert dict(found.get_ifd(0x8769)) == {0x9003: "2020:01:01 00:00:00"}


def test_previews_behind_a_cameras_jpeg_are_left_out_and_frames_of_other_files_are_refused(tmp_path):
    picture, preview = Image.fromarray(values(8, 6, 3)), Image.fromarray(values(4, 3, 3))
    picture.save(tmp_path / "camera.jpg", "MPO", save_all=True, append_images=[preview])
    picture.save(tmp_path / "plain.jpg")
    assert np.array_equal(read_picture(tmp_path / "camera.jpg").pixels, read_picture(tmp_path / "plain.jpg").pixels)
    picture.save(tmp_path / "pages.tif", save_all=True, append_images=[picture])
    with pytest.raises(DataError, match=r"pages.tif: holds several frames; convert"):
        read_picture(tmp_path / "pages.tif")

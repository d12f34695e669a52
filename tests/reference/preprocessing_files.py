"""Small image files of every mode that Pillow reads, for make_preprocessing.py.

Pillow writes what it can; the rest (16-bit PNG, 1-bit and 4-bit colour BMP and so on) is built here byte by byte.
BMP and GIF files are of common kinds only: the `image` crate decodes them, and equality with Pillow is promised for
JPEG, PNG and WebP.
"""

import hashlib
import io
import json
import struct
import zlib

import numpy as np
from PIL import Image, ImageOps


def picture(width=23, height=17):
    """Smooth colours with an edge, u8 [height, width, 3]: JPEG and lossy WebP need something photo-like."""
    y, x = np.mgrid[0:height, 0:width]
    red = 255 * x / (width - 1)
    green = 255 * y / (height - 1)
    blue = np.where(x + y < width, 200 - 5 * x, 40 + 4 * y)
    return np.clip(np.stack([red, green, blue], -1), 0, 255).astype(np.uint8)


def saved(image, format, **options):
    file = io.BytesIO()
    image.save(file, format, **options)
    return file.getvalue()


def png(width, height, bits, colour, rows, extra=b"", interlace=0):
    """A PNG of raw scanlines (without filter bytes); `extra` stands before IDAT."""

    def chunk(name, data):
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    header = struct.pack(">IIBBBBB", width, height, bits, colour, 0, 0, interlace)
    data = b"".join(b"\0" + row for row in rows)
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + extra
        + chunk(b"IDAT", zlib.compress(data, 9))
        + chunk(b"IEND", b"")
    )


def png_chunk(name, data):
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))


def packed(values, bits):
    """One row of numbers below 2 ** bits, packed from the high end."""
    text = "".join(format(int(v), f"0{bits}b") for v in values)
    text += "0" * (-len(text) % 8)
    return bytes(int(text[i : i + 8], 2) for i in range(0, len(text), 8))


def adam7(pixels):
    """The scanlines of the seven passes of an u8 [height, width, channels] image."""
    passes = [(0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2)]
    for x, y, dx, dy in passes:
        part = pixels[y::dy, x::dx]
        if part.size:
            yield from (row.tobytes() for row in part)


def bmp(width, height, bits, data, compression=0, palette=b"", masks=b"", colours=0):
    """A BMP with a 40-byte header; `data` as stored, padded."""
    offset = 14 + 40 + len(masks) + len(palette)
    header = struct.pack("<IiiHHIIiiII", 40, width, height, 1, bits, compression, len(data), 2835, 2835, colours, 0)
    return b"BM" + struct.pack("<IHHI", offset + len(data), 0, 0, offset) + header + masks + palette + data


def padded(rows):
    """BMP rows, bottom up, each padded to four bytes."""
    return b"".join(row + bytes(-len(row) % 4) for row in reversed(rows))


def gif(screen, frame, indices, palette, transparent=None, background=0, local=False):
    """A GIF of one frame (left, top, width, height), each pixel a code of its own."""
    bits = (len(palette) // 3 - 1).bit_length()
    table = palette + bytes(3 * 2**bits - len(palette))
    flags = 0x80 | (bits - 1)
    out = b"GIF89a" + struct.pack("<HHBBB", *screen, 0 if local else flags, background, 0)
    out += b"" if local else table
    if transparent is not None:
        out += b"\x21\xf9\x04\x01\0\0" + bytes([transparent]) + b"\0"
    out += b"," + struct.pack("<HHHHB", *frame, flags if local else 0) + (table if local else b"")
    # A clear code every few pixels keeps the code size where it begins.
    size, clear = bits + 1, 1 << bits
    codes = []
    for i, index in enumerate(indices):
        if i % (2**bits - 2) == 0:
            codes.append(clear)
        codes.append(index)
    codes.append(clear + 1)
    text = "".join(format(code, f"0{size}b")[::-1] for code in codes)
    text += "0" * (-len(text) % 8)
    data = bytes(int(text[i : i + 8][::-1], 2) for i in range(0, len(text), 8))
    out += bytes([bits])
    for i in range(0, len(data), 255):
        part = data[i : i + 255]
        out += bytes([len(part)]) + part
    return out + b"\0;"


def jpeg_files(rgb):
    big = Image.fromarray(picture(41, 29))
    grey = big.convert("L")
    cmyk = Image.merge("CMYK", [*big.split(), Image.fromarray((255 - picture(41, 29)[..., 1] // 2))])
    stored = saved(cmyk, "JPEG", quality=90)
    adobe = stored.index(b"Adobe")
    marker = stored.rindex(b"\xff\xee", 0, adobe)
    without = stored[:marker] + stored[marker + 2 + struct.unpack(">H", stored[marker + 2 : marker + 4])[0] :]
    exif = Image.Exif()
    files = {
        "rgb444.jpg": saved(big, "JPEG", quality=90, subsampling=0),
        "rgb422.jpg": saved(big, "JPEG", quality=90, subsampling=1),
        "rgb420.jpg": saved(big, "JPEG", quality=75, subsampling=2),
        "low.jpg": saved(big, "JPEG", quality=10),
        "progressive.jpg": saved(big, "JPEG", quality=85, progressive=True),
        "restart.jpg": saved(big, "JPEG", quality=80, restart_marker_blocks=2),
        "grey.jpg": saved(grey, "JPEG", quality=90),
        "grey-progressive.jpg": saved(grey, "JPEG", quality=90, progressive=True),
        "stored-rgb.jpg": saved(big, "JPEG", quality=90, keep_rgb=True),
        "cmyk-adobe.jpg": stored,
        "ycck-adobe.jpg": stored[: adobe + 11] + b"\2" + stored[adobe + 12 :],
        "cmyk-plain.jpg": without,
        "one-pixel.jpg": saved(Image.new("RGB", (1, 1), (200, 30, 90)), "JPEG"),
    }
    for orientation in range(1, 9):
        exif[0x0112] = orientation
        files[f"orientation{orientation}.jpg"] = saved(
            Image.fromarray(rgb), "JPEG", quality=90, subsampling=0, exif=exif
        )
    return files


def png_files(rgb):
    height, width, _ = rgb.shape
    image = Image.fromarray(rgb)
    grey = image.convert("L")
    alpha = Image.fromarray(np.tile(np.linspace(0, 255, width).astype(np.uint8), (height, 1)))
    wide = (rgb.astype(np.uint32) * 257 + np.arange(width)[:, None] * 91) % 65536
    deep = wide[..., 0].copy()
    # Around the borders where a conversion to 8 bits could clip, wrap or shift.
    deep.flat[:12] = [0, 1, 127, 128, 254, 255, 256, 257, 511, 32767, 32768, 65535]
    palette = image.quantize(50)
    trns = png_chunk(b"tRNS", bytes([0, 128, 255, 7]))
    palettes = {bits: png_chunk(b"PLTE", bytes(range(7, 7 + 3 * 2**bits))) for bits in (1, 2, 4)}
    index = np.add.outer(np.arange(height), np.arange(width))
    exif = Image.Exif()
    exif[0x0112] = 6

    def bytes16(*planes):
        return [row.tobytes() for row in np.stack(planes, -1).astype(">u2")]

    files = {
        "one-bit.png": saved(grey.convert("1"), "PNG"),
        "grey.png": saved(grey, "PNG"),
        "grey-transparent.png": saved(grey, "PNG", transparency=100),
        "grey-alpha.png": saved(Image.merge("LA", [grey, alpha]), "PNG"),
        "palette.png": saved(palette, "PNG"),
        "palette-transparent.png": saved(palette, "PNG", transparency=bytes(range(0, 250, 5))),
        "palette-one-transparent.png": saved(palette, "PNG", transparency=3),
        "rgb.png": saved(image, "PNG"),
        "rgb-transparent.png": saved(image, "PNG", transparency=tuple(int(v) for v in rgb[3, 3])),
        "rgba.png": saved(Image.merge("RGBA", [*image.split(), alpha]), "PNG"),
        "grey16.png": saved(Image.fromarray(deep.astype(np.uint16)), "PNG"),
        "grey16-transparent.png": png(
            width, height, 16, 0, bytes16(deep), png_chunk(b"tRNS", struct.pack(">H", 256))
        ),
        "grey-alpha16.png": png(width, height, 16, 4, bytes16(deep, wide[..., 1])),
        "rgb16.png": png(width, height, 16, 2, bytes16(deep, wide[..., 1], wide[..., 2])),
        "rgb16-transparent.png": png(
            width, height, 16, 2, bytes16(*[wide[..., c] for c in range(3)]), png_chunk(b"tRNS", bytes(6))
        ),
        "rgba16.png": png(width, height, 16, 6, bytes16(deep, wide[..., 1], wide[..., 2], wide[..., 0])),
        "interlaced.png": png(width, height, 8, 2, adam7(rgb), interlace=1),
        "orientation.png": saved(image, "PNG", exif=exif),
        "gamma.png": png(
            width, height, 8, 2, [row.tobytes() for row in rgb], png_chunk(b"gAMA", struct.pack(">I", 100000))
        ),
    }
    for bits in (1, 2, 4):
        rows = [packed(row % 2**bits, bits) for row in index]
        files[f"grey-{bits}bit.png"] = png(width, height, bits, 0, rows)
        files[f"grey-{bits}bit-transparent.png"] = png(
            width, height, bits, 0, rows, png_chunk(b"tRNS", b"\0\1")
        )
        files[f"palette-{bits}bit.png"] = png(width, height, bits, 3, rows, palettes[bits])
        part = trns if bits > 1 else png_chunk(b"tRNS", b"\0")
        files[f"palette-{bits}bit-transparent.png"] = png(width, height, bits, 3, rows, palettes[bits] + part)
    return files


def bmp_files(rgb):
    height, width, _ = rgb.shape
    image = Image.fromarray(rgb)
    alpha = Image.fromarray(np.tile(np.linspace(0, 255, width).astype(np.uint8), (height, 1)))
    index = np.add.outer(np.arange(height) * 2, np.arange(width))
    colours = bytes(v for i in range(256) for v in (i, 255 - i, i * 7 % 256, 0))
    bgrx = [np.concatenate([row[:, ::-1], np.full((width, 1), 77, np.uint8)], 1).tobytes() for row in rgb]
    return {
        "one-bit.bmp": saved(image.convert("1"), "BMP"),
        "one-bit-colour.bmp": bmp(width, height, 1, padded([packed(r % 2, 1) for r in index]), palette=colours[400:408], colours=2),
        "four-bit.bmp": bmp(width, height, 4, padded([packed(r % 16, 4) for r in index]), palette=colours[:64]),
        "grey.bmp": saved(image.convert("L"), "BMP"),
        "palette.bmp": saved(image.quantize(40), "BMP"),
        "rgb.bmp": saved(image, "BMP"),
        "top-down.bmp": bmp(width, -height, 24, padded([r[:, ::-1].tobytes() for r in rgb][::-1])),
        "rgbx.bmp": bmp(width, height, 32, padded(bgrx)),
        "rgbx-masks.bmp": bmp(width, height, 32, padded(bgrx), 3, masks=struct.pack("<III", 0xFF0000, 0xFF00, 0xFF)),
        "rgba.bmp": saved(Image.merge("RGBA", [*image.split(), alpha]), "BMP"),
    }


def gif_files(rgb):
    height, width, _ = rgb.shape
    image = Image.fromarray(rgb)
    palette = bytes(i * 29 % 256 for i in range(48))
    indices = [(x * 3 + y) % 16 for y in range(5) for x in range(7)]
    return {
        "palette.gif": saved(image, "GIF"),
        "grey.gif": saved(image.convert("L"), "GIF"),
        "one-bit.gif": saved(image.convert("1"), "GIF"),
        "transparent.gif": saved(image.quantize(40), "GIF", transparency=2),
        "interlaced.gif": saved(image, "GIF", interlace=1),
        "animated.gif": saved(image, "GIF", save_all=True, append_images=[ImageOps.mirror(image)], duration=50),
        "local-palette.gif": gif((7, 5), (0, 0, 7, 5), indices, palette, local=True),
    }


def webp_files(rgb):
    image = Image.fromarray(rgb)
    large = Image.fromarray(picture(41, 29))
    height, width, _ = rgb.shape
    alpha = Image.fromarray(np.tile(np.linspace(0, 255, width).astype(np.uint8), (height, 1)))
    rgba = Image.merge("RGBA", [*image.split(), alpha])
    other = Image.merge("RGBA", [*ImageOps.mirror(image).split(), alpha])
    return {
        "lossless.webp": saved(image, "WEBP", lossless=True),
        "lossless-alpha.webp": saved(rgba, "WEBP", lossless=True, exact=True),
        "lossless-grey.webp": saved(image.convert("L"), "WEBP", lossless=True),
        "lossless-palette.webp": saved(image.quantize(9).convert("RGB"), "WEBP", lossless=True),
        "lossy.webp": saved(large, "WEBP", quality=80),
        "lossy-low.webp": saved(large, "WEBP", quality=5),
        "lossy-alpha.webp": saved(rgba, "WEBP", quality=70),
        "animated.webp": saved(image, "WEBP", save_all=True, append_images=[ImageOps.mirror(image)], lossless=True),
        "animated-alpha.webp": saved(rgba, "WEBP", save_all=True, append_images=[other], lossless=True, exact=True),
        "animated-lossy.webp": saved(image, "WEBP", save_all=True, append_images=[ImageOps.mirror(image)], quality=70),
    }


def orientation_files(rgb):
    """Every place and spelling in which Pillow looks for an orientation, on one small image."""
    image = Image.fromarray(rgb[:5, :7])

    def tiff(order, kind, value, before=()):
        """EXIF of one directory: `before`, tags in front, and an orientation of the TIFF type `kind`."""
        size = {1: "B", 3: "H", 4: "I", 6: "b", 8: "h", 9: "i"}[kind]
        number = struct.pack(order + size, value)
        entries = [struct.pack(order + "HHI", tag, 3, 1) + struct.pack(order + "H", 7) + b"\0\0" for tag in before]
        entries.append(struct.pack(order + "HHI", 0x0112, kind, 1) + number + bytes(4 - len(number)))
        head = b"II*\0" if order == "<" else b"MM\0*"
        return head + struct.pack(order + "IH", 8, len(entries)) + b"".join(entries) + bytes(4)

    def app1(body):
        return b"\xff\xe1" + struct.pack(">H", len(body) + 2) + body

    def jpeg(*segments):
        data = saved(image, "JPEG", quality=90, subsampling=0)
        return data[:20] + b"".join(segments) + data[20:]

    def png(*chunks):
        data = saved(image, "PNG")
        return data[:33] + b"".join(chunks) + data[33:]

    def webp(*chunks):
        """An extended file around the simple one's chunk."""
        inner = saved(image, "WEBP", lossless=True)[12:]
        flags = sum({b"EXIF": 8, b"XMP ": 4}[name] for name, _ in chunks)
        parts = [(b"VP8X", struct.pack("<I", flags) + struct.pack("<I", 6)[:3] + struct.pack("<I", 4)[:3])]
        body = b"".join(n + struct.pack("<I", len(d)) + d + bytes(len(d) % 2) for n, d in parts) + inner
        body += b"".join(n + struct.pack("<I", len(d)) + d + bytes(len(d) % 2) for n, d in chunks)
        return b"RIFF" + struct.pack("<I", len(body) + 4) + b"WEBP" + body

    prefix = b"Exif\0\0"
    attribute = b'<x:xmpmeta><rdf:Description tiff:Orientation="8"/></x:xmpmeta>'
    element = b"<x:xmpmeta><tiff:Orientation>5</tiff:Orientation></x:xmpmeta>"
    exif = tiff("<", 3, 6)
    profile = b"\nexif\n%8d\n" % len(prefix + exif) + (prefix + exif).hex().encode() + b"\n"
    itxt = b"XML:com.adobe.xmp\0\0\0\0\0" + attribute
    packed_itxt = b"XML:com.adobe.xmp\0\1\0\0\0" + zlib.compress(element)
    xap = b"http://ns.adobe.com/xap/1.0/\0"
    files = {
        "attribute.jpg": jpeg(app1(xap + attribute)),
        "element.jpg": jpeg(app1(xap + element)),
        "both.jpg": jpeg(app1(prefix + exif), app1(xap + attribute)),
        "none-but-xmp.jpg": jpeg(app1(prefix + tiff(">", 3, 9)), app1(xap + attribute)),
        "split.jpg": jpeg(app1(prefix + exif[:20]), app1(prefix + exif[20:])),
        "exif.png": png(png_chunk(b"eXIf", exif)),
        "exif-prefix.png": png(png_chunk(b"eXIf", prefix + exif)),
        "exif-last.png": saved(image, "PNG")[:-12] + png_chunk(b"eXIf", exif) + png_chunk(b"IEND", b""),
        "profile.png": png(png_chunk(b"zTXt", b"Raw profile type exif\0\0" + zlib.compress(profile))),
        "profile-plain.png": png(png_chunk(b"tEXt", b"Raw profile type exif\0" + profile)),
        "attribute.png": png(png_chunk(b"iTXt", itxt)),
        "element.png": png(png_chunk(b"iTXt", packed_itxt)),
        "exif.webp": webp((b"EXIF", exif)),
        "exif-prefix.webp": webp((b"EXIF", prefix + exif)),
        "attribute.webp": webp((b"XMP ", attribute)),
    }
    for order, name in (("<", "little"), (">", "big")):
        for kind in (1, 3, 4, 6, 8, 9):
            files[f"{name}{kind}.jpg"] = jpeg(app1(prefix + tiff(order, kind, 3, before=(0x0100, 0x0101))))
    return {f"turned-{name}": data for name, data in files.items()}


def write(out):
    folder = out / "decode"
    folder.mkdir(exist_ok=True)
    for old in folder.iterdir():
        old.unlink()
    rgb = picture()
    golden = []
    for files in (jpeg_files, png_files, bmp_files, gif_files, webp_files, orientation_files):
        for name, data in files(rgb).items():
            (folder / name).write_bytes(data)
            image = Image.open(io.BytesIO(data))
            mode = image.mode
            pixels = image.convert("RGB")
            turned = ImageOps.exif_transpose(Image.open(io.BytesIO(data))).convert("RGB")
            entry = {"file": name, "mode": mode, "width": pixels.width, "height": pixels.height}
            entry["sha256"] = hashlib.sha256(pixels.tobytes()).hexdigest()
            entry["turned_sha256"] = hashlib.sha256(turned.tobytes()).hexdigest()
            entry["turned"] = [turned.width, turned.height]
            golden.append(entry)
    lines = ",\n".join(json.dumps(entry) for entry in golden)
    (out / "decode.json").write_text(f"[\n{lines}\n]\n")
    total = sum(file.stat().st_size for file in folder.iterdir())
    print(f"decode.json: {len(golden)} files, {total} bytes")

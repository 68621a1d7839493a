"""Pictures for the golden vectors, and the steps from a file to the numbers that a graph takes."""

import io
import os

import numpy as np

IMAGENET_MEAN = np.array([0.485, 0.456, 0.406], np.float32)
IMAGENET_STD = np.array([0.229, 0.224, 0.225], np.float32)


def centre(encoded, shorter, side):
    """The middle of a picture, [side, side, RGB] of 0..255."""
    from PIL import Image

    image = Image.open(io.BytesIO(encoded)).convert("RGB")
    width, height = image.size
    scale = lambda edge: shorter * edge // min(width, height)
    image = image.resize((scale(width), scale(height)), Image.Resampling.BILINEAR)
    left, above = (image.width - side) // 2, (image.height - side) // 2
    return np.asarray(image.crop((left, above, left + side, above + side)), np.float32)


def picture(encoded, shorter, side):
    return ((centre(encoded, shorter, side) / np.float32(255) - IMAGENET_MEAN) / IMAGENET_STD).transpose(2, 0, 1)


def photos(names, turned=False):
    """Small JPEGs of freely usable pictures that scikit-image ships (public domain or CC0)."""
    import skimage
    from PIL import Image

    folder = os.path.join(os.path.dirname(skimage.__file__), "data")
    files = []
    for i, name in enumerate(names):
        image = Image.open(os.path.join(folder, name)).convert("RGB")
        image.thumbnail((320, 320), Image.Resampling.LANCZOS)
        if turned:
            image = image.rotate(90 * i, expand=True)
        file = io.BytesIO()
        image.save(file, "JPEG", quality=85)
        files.append(file.getvalue())
    return files


def whole(pixels, step=1):
    """Pixels in few whole numbers, dithered so that they can still be recognised: short in JSON."""
    noise = np.random.default_rng(1).uniform(-0.5, 0.5, pixels.shape)
    return (np.clip(np.round(pixels / step + noise), -2, 2) * step).astype(np.float32)[None]


def posterised(encoded, shorter, side):
    return whole(picture(encoded, shorter, side))


def part_of_page(left, above, width, height, grow):
    """A cut out of a scanned page, enlarged, [height, width, RGB] of 0..255."""
    import skimage
    from PIL import Image

    page = Image.open(os.path.join(os.path.dirname(skimage.__file__), "data", "page.png")).convert("RGB")
    page = page.crop((left, above, left + width, above + height))
    return np.asarray(page.resize((width * grow, height * grow), Image.Resampling.BICUBIC), np.float32)

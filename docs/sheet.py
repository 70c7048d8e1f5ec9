"""The README's pictures: photographs with their captions under them, in one PNG.

python docs/sheet.py OUT.png MODEL_DIR PATH ...
"""

import sys
import textwrap

from PIL import Image, ImageDraw, ImageFont

import captioner
from captioner import images

SIDE, TEXT, GAP = 224, 64, 12  # pixels


def main(out: str, model_dir: str, *paths: str) -> None:
    """Four pictures a row, each fitted into a square."""
    rows = -(-len(paths) // 4)
    columns = min(4, len(paths))
    size = (columns * (SIDE + GAP) + GAP, rows * (SIDE + TEXT + GAP) + GAP)
    sheet = Image.new("RGB", size, "white")
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(size=15)
    for number, said in enumerate(captioner.load(model_dir).caption(paths)):
        if said.caption is None:
            raise SystemExit(said.error)
        x = GAP + number % 4 * (SIDE + GAP)
        y = GAP + number // 4 * (SIDE + TEXT + GAP)
        picture = images.read_image(said.path)
        picture.thumbnail((SIDE, SIDE))
        left, top = (SIDE - picture.width) // 2, (SIDE - picture.height) // 2
        sheet.paste(picture, (x + left, y + top))
        text = "\n".join(textwrap.wrap(said.caption, 30))
        draw.multiline_text((x, y + SIDE + 4), text, "black", font)
    sheet.save(out, optimize=True)


if __name__ == "__main__":
    main(*sys.argv[1:])

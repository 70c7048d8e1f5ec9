"""Drawn scenes and their captions, and scenes made by hand."""

from random import Random

from captioner.scenes import Scene, accuracy, captions, scene
from captioner.scenes.drawing import SIZES, SPLITS, Thing
from captioner.scenes.grammar import parse

DRAWN = [scene(7, split, i) for split in SPLITS for i in range(400)]
CAPTIONED = [(text, drawn) for i, drawn in enumerate(DRAWN) for text in captions(drawn, Random(i))]


def thing(colour="red", shape="circle", x=0.5, y=0.5, size="small"):
    return Thing(shape, colour, size, x, y, SIZES[size][0])


def a_scene(*things):
    return Scene(things, "plain", 0)


def true_of(caption, drawn):
    """Whether a caption is true of one scene; `truth` gives many at once."""
    return accuracy._right(parse(caption), drawn)["accuracy"]

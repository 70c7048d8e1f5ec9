"""The embedded data set: pictures of coloured shapes, and captions that a parser can check."""

from captioner.scenes.accuracy import truth as truth
from captioner.scenes.dataset import read_scenes as read_scenes
from captioner.scenes.dataset import write_scenes as write_scenes
from captioner.scenes.drawing import Scene as Scene
from captioner.scenes.drawing import scene as scene
from captioner.scenes.grammar import captions as captions

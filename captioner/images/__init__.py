"""Pictures: opened, checked, and turned into the tensors that encoders read."""

from captioner.images.decode import ImageError as ImageError
from captioner.images.decode import Source as Source
from captioner.images.decode import decode_image as decode_image
from captioner.images.decode import read_bytes as read_bytes
from captioner.images.decode import read_image as read_image
from captioner.images.preprocess import Augment as Augment
from captioner.images.preprocess import Preprocess as Preprocess
from captioner.images.preprocess import stack as stack
from captioner.images.preprocess import view as view

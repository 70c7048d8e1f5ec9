"""Pictures: opened, checked, and made into the tensors that encoders read."""

from captioner.images.decode import ADAM7 as ADAM7
from captioner.images.decode import FILTERS as FILTERS
from captioner.images.decode import FORMATS as FORMATS
from captioner.images.decode import MAX_ASPECT as MAX_ASPECT
from captioner.images.decode import MAX_BYTES as MAX_BYTES
from captioner.images.decode import MAX_PIXELS as MAX_PIXELS
from captioner.images.decode import PILLOW_ERRORS as PILLOW_ERRORS
from captioner.images.decode import Augment as Augment
from captioner.images.decode import ImageError as ImageError
from captioner.images.decode import Preprocess as Preprocess
from captioner.images.decode import decode as decode
from captioner.images.decode import read_bytes as read_bytes
from captioner.images.decode import read_image as read_image
from captioner.images.decode import stack as stack
from captioner.images.decode import view as view

"""CNN encoders: pictures -> Features."""

from captioner.encoders.cnn import CNN as CNN
from captioner.encoders.cnn import Blind as Blind
from captioner.encoders.cnn import Encoders as Encoders
from captioner.encoders.cnn import Joined as Joined
from captioner.encoders.cnn import Timm as Timm
from captioner.encoders.cnn import Torchvision as Torchvision

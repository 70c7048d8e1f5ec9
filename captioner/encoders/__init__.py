"""CNN encoders: pictures -> Features."""

from captioner.encoders.base import CNN as CNN
from captioner.encoders.base import Blind as Blind
from captioner.encoders.base import Encoders as Encoders
from captioner.encoders.timm_cnn import Joined as Joined
from captioner.encoders.timm_cnn import Timm as Timm
from captioner.encoders.torchvision_cnn import Torchvision as Torchvision

"""Heavy packages are imported where they are needed only."""

import subprocess
import sys


def test_captioning_does_not_import_what_only_training_needs():
    code = (
        "import sys, captioner, captioner.commands.caption, captioner.encoders; "
        "captioner.encoders.Timm(weights='pip'); "
        "heavy = {'pytorch_lightning', 'hydra', 'omegaconf', 'tensorboard', 'pycocotools'}; "
        "sys.exit(' '.join(heavy & set(sys.modules)) or 0)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120)

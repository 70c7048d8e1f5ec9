"""`python -m captioner.commands VERB` is the command `captioner VERB`."""

import sys

from captioner.commands.main import main

if __name__ == "__main__":
    sys.exit(main())

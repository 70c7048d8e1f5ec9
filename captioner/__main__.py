"""`python -m captioner PATH ...` is the command `caption`."""

import sys

from captioner.commands.caption import main

if __name__ == "__main__":
    sys.exit(main())

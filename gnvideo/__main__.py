"""`python -m gnvideo`: the same as the installed command."""

import sys

from gnvideo.cli import main

if __name__ == "__main__":
    sys.exit(main())

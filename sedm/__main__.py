"""``python -m sedm`` is the command ``sedm``, also for launchers of several processes."""

import sys

from sedm.cli import main

if __name__ == "__main__":
    sys.exit(main())

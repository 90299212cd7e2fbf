"""``python -m vital_eval`` is the same as ``vital-eval``."""

import sys

from vital_eval.cli.main import main

if __name__ == "__main__":
    sys.exit(main())

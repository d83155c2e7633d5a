"""The command line: `python -m ccnn_geo --help`."""

import sys

from ccnn_geo.commands import main

if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

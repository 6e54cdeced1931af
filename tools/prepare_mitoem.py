#!/usr/bin/env python
"""`prompt-das prepare-mitoem`, under the name that Detectron2's users look for."""

import sys

from prompt_das_cli import main

if __name__ == "__main__":
    main(["prepare-mitoem", *sys.argv[1:]])

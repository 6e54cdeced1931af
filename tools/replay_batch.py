#!/usr/bin/env python
"""`prompt-das replay-batch`, under the name that Detectron2's users look for."""

import sys

from prompt_das_cli import main

if __name__ == "__main__":
    main(["replay-batch", *sys.argv[1:]])

#!/usr/bin/env python
"""`prompt-das new-project`, under the name that Detectron2's users look for."""

import sys

from prompt_das_cli import main

if __name__ == "__main__":
    main(["new-project", *sys.argv[1:]])

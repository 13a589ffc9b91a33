"""`python -m uniformer.cli`: the command line, as torchrun starts it."""

import sys

from uniformer.cli.main import main

sys.exit(main())

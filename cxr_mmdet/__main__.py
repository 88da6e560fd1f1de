"""``python -m cxr_mmdet`` is the command ``cxr``."""

from cxr_mmdet.cli.main import main

main()

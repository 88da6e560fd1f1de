"""A web page to look at a model's findings and to say what is right."""

from cxr_mmdet.cli.serve import app

if __name__ == "__main__":
    app()

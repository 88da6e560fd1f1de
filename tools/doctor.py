"""Say what is installed and works here, and what to do about the rest."""

from cxr_mmdet.cli.doctor import app

if __name__ == "__main__":
    app()

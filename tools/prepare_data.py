"""From DICOM radiographs and the readers' table to a prepared folder; or synthetic radiographs to try it on."""

from cxr_mmdet.cli.prepare_data import app

if __name__ == "__main__":
    app()

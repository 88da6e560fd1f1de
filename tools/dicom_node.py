"""A PACS node: radiographs in, structured reports and Secondary Captures back."""

from cxr_mmdet.cli.dicom_node import app

if __name__ == "__main__":
    app()

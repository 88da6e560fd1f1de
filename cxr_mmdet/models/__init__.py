"""What mmdet's models need from us."""

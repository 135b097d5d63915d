"""From one run to DICOM objects: segmentation and report, encoded and ready to send."""

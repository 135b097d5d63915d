"""The node: the DICOM network in and out, what decides, and the only place where everything meets."""

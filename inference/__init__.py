"""From a volume to a localization of what departs from healthy anatomy.

Runs in a notebook as well as in the node's child process; knows no database and no DICOM network. Importing the
package loads no torch: `inference.types` and `inference.card` are readable without it.
"""

"""The coded concepts of our results, each with the context group it is taken from, and our few private ones.

Private codes stand where PS3.16 has no concept; their scheme identifies itself in every object that uses them.
"""

from __future__ import annotations

from highdicom.coding_schemes import CodingSchemeIdentificationItem
from pydicom.sr.coding import Code

from dicom_node.outcome import Outcome
from inference.types import Contrast

PRIVATE_SCHEME = "99FOVEA"

ABNORMAL_STRUCTURE = Code("49755003", "SCT", "Morphologically Abnormal Structure")  # CID 7150
LESION = Code("52988006", "SCT", "Lesion")  # CID 7159
REGIONS = {"BRAIN": Code("12738006", "SCT", "Brain")}  # CID 4030; keyed by Body Part Examined
SIDES = {  # CID 244
    "left": Code("7771000", "SCT", "Left"),
    "right": Code("24028007", "SCT", "Right"),
    "both": Code("51440002", "SCT", "Bilateral"),
}
ARTIFICIAL_INTELLIGENCE = Code("123110", "DCM", "Artificial Intelligence")  # CID 7162
SOURCE_IMAGE = Code("121322", "DCM", "Source image for image processing operation")  # CID 7202
SEGMENTATION = Code("113076", "DCM", "Segmentation")  # CID 7203
CALCULATION = Code("112187", "DCM", "Unspecified method of calculation")  # CID 7203 has none for a model; the text says it
PROCESSING_EQUIPMENT = Code("109102", "DCM", "Processing Equipment")  # CID 7005

VOLUME = Code("118565006", "SCT", "Volume")  # CID 7472
SUM_OF_VOXELS = Code("126030", "DCM", "Sum of segmented voxel method for volume")  # CID 7474
LONG_AXIS = Code("103339001", "SCT", "Long axis")  # CID 7470
AREA = Code("42798000", "SCT", "Area")  # CID 7471
MEAN = Code("373098007", "SCT", "Mean")  # CID 7464
MAXIMUM = Code("56851009", "SCT", "Maximum")  # CID 7464
NUMBER_OF_LESIONS = Code("246206008", "SCT", "Number of lesions")

CUBIC_CENTIMETRE = Code("cm3", "UCUM", "cm3")  # CID 7462
SQUARE_MILLIMETRE = Code("mm2", "UCUM", "mm2")  # CID 7461
MILLIMETRE = Code("mm", "UCUM", "mm")  # CID 7460
SCORE_UNIT = Code("{score}", "UCUM", "score")
NO_UNIT = Code("1", "UCUM", "no units")
COUNT_UNIT = Code("{lesions}", "UCUM", "lesions")

PROCESSING_SUMMARY = Code("111017", "DCM", "CAD Processing and Findings Summary")
SUMMARY_OF_OUTCOME = {  # CID 6047
    Outcome.FINDINGS: Code("111242", "DCM", "All algorithms succeeded; with findings"),
    Outcome.NO_FINDING: Code("111241", "DCM", "All algorithms succeeded; without findings"),
    Outcome.REFUSED: Code("111245", "DCM", "No algorithms succeeded; without findings"),
    Outcome.FAILED: Code("111245", "DCM", "No algorithms succeeded; without findings"),
}
PROCEDURES = {"MR": Code("24590-2", "LN", "Brain MRI")}  # CID 646
IMAGING_PROCEDURE = Code("363679005", "SCT", "Imaging procedure")

MEASUREMENT_REPORT = Code("126000", "DCM", "Imaging Measurement Report")  # CID 7021
# a document title of our own, as CID 7021 allows
REPORT_WITHOUT_REGIONS = Code("AI-REPORT", PRIVATE_SCHEME, "Report of an image analysis by AI, without regions")
DERIVED_MEASUREMENTS = Code("126011", "DCM", "Derived Imaging Measurements")  # TID 1500
QUALITATIVE_EVALUATIONS = Code("C0034375", "UMLS", "Qualitative Evaluations")  # TID 1500
IMPRESSION = Code("121073", "DCM", "Impression")  # CID 7002

SCORE = Code("SCORE", PRIVATE_SCHEME, "Departure score")
MEAN_SCORE = Code("SCORE-MEAN", PRIVATE_SCHEME, "Mean departure score")
PEAK_SCORE = Code("SCORE-PEAK", PRIVATE_SCHEME, "Peak departure score")
PERCENTILE = Code("STUDY-SCORE", PRIVATE_SCHEME, "Study score (99.5th percentile of the departure score)")
UNCERTAINTY = Code("UNCERTAINTY", PRIVATE_SCHEME, "Standard deviation of the healthy estimate")
EXTENTS = (
    Code("EXTENT-LR", PRIVATE_SCHEME, "Extent left to right"),
    Code("EXTENT-AP", PRIVATE_SCHEME, "Extent posterior to anterior"),
    Code("EXTENT-FH", PRIVATE_SCHEME, "Extent foot to head"),
)
CONTRAST = Code("CONTRAST", PRIVATE_SCHEME, "Intensity against the healthy estimate")
CONTRASTS = {
    Contrast.BRIGHTER: Code("BRIGHTER", PRIVATE_SCHEME, "Brighter"),
    Contrast.DARKER: Code("DARKER", PRIVATE_SCHEME, "Darker"),
}
INTENDED_USE = Code("INTENDED-USE", PRIVATE_SCHEME, "Intended use")
REASON = Code("REASON", PRIVATE_SCHEME, "Reason")
OPERATING_POINT = Code("OPERATING-POINT", PRIVATE_SCHEME, "Operating point")
SCORE_MEANING = Code("SCORE-MEANING", PRIVATE_SCHEME, "Meaning of the score")
SERIES_ANALYSED = Code("SERIES-ANALYSED", PRIVATE_SCHEME, "Series analysed")
SERIES_NOT_ANALYSED = Code("SERIES-REFUSED", PRIVATE_SCHEME, "Series selected but not analysed")
SERIES_PASSED_OVER = Code("SERIES-SKIPPED", PRIVATE_SCHEME, "Series not analysed")
INPUT_QUALITY = Code("INPUT-QUALITY", PRIVATE_SCHEME, "Input quality")
BLIND_SPOT = Code("BLIND-SPOT", PRIVATE_SCHEME, "Known blind spot")
MODEL = Code("MODEL", PRIVATE_SCHEME, "Model")
FINDINGS_LEFT_OUT = Code("NOT-LISTED", PRIVATE_SCHEME, "Findings not listed")
SUPERSEDES = Code("SUPERSEDES", PRIVATE_SCHEME, "Supersedes")
EVIDENCE = Code("EVIDENCE", PRIVATE_SCHEME, "Supporting evidence")
EVIDENCE_OF = {
    "parametric-map": Code("EVIDENCE-MAP", PRIVATE_SCHEME, "Departure score map"),
    "uncertainty": Code("EVIDENCE-UNCERT", PRIVATE_SCHEME, "Map of the uncertainty of the healthy estimate"),
    "pseudo-healthy": Code("EVIDENCE-HEALTHY", PRIVATE_SCHEME, "Healthy estimate by a model, not acquired"),
    "capture": Code("EVIDENCE-CAPTURE", PRIVATE_SCHEME, "Picture with outlines burned in"),
    "presentation-state": Code("EVIDENCE-GSPS", PRIVATE_SCHEME, "Outlines as a presentation state"),
    "pdf": Code("EVIDENCE-PDF", PRIVATE_SCHEME, "This report as a document"),
}


def coding_schemes() -> list[CodingSchemeIdentificationItem]:
    """What identifies our private scheme in an object (PS3.3 C.12.1.1.7)."""
    return [
        CodingSchemeIdentificationItem(
            PRIVATE_SCHEME, name="Fovea concepts without a standard code", responsible_organization="Fovea"
        )
    ]

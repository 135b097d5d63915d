"""What each figure is called and means, in words for a reader who is no statistician; and how a figure is written."""

from __future__ import annotations

import math

from inference.evaluation.resampling import Estimate

MAP_FIGURES: dict[str, tuple[str, str]] = {
    "ap_pooled": ("Average precision, pooled", "all voxels of all studies: share marked among the highest, averaged over recall"),
    "ap_case": ("Average precision, mean of studies", "the same in each study with marks, then the mean"),
    "auroc_pooled": ("AUROC, pooled", "chance that a marked voxel scores above an unmarked one of the brain"),
    "dice_fixed_pooled": ("Dice at the fixed threshold, pooled", "threshold fixed on other patients; all voxels together"),
    "dice_fixed_mean": ("Dice at the fixed threshold, mean of studies", "the same, mean of studies with marks"),
    "dice_fpr_1_pooled": ("Dice at 1 % false voxels", "threshold that 1 in 100 unmarked brain voxels of other patients reaches"),
    "dice_fpr_01_pooled": ("Dice at 0.1 % false voxels", "1 in 1000 unmarked brain voxels of other patients reaches it"),
    "dice_max_pooled": ("Highest Dice, pooled (oracle)", "best threshold for these very studies: not reachable in practice"),
    "dice_max_mean": ("Highest mean Dice (oracle)", "best single threshold for the mean of these studies"),
    "dice_max_per_case": ("Mean of each study's highest Dice (oracle)", "a threshold for every study: the most lenient of all"),
    "froc": ("Free-response score", "mean share of lesions found at ¼, ½, 1, 2, 4 and 8 false findings in each study"),
    "aupro_30": ("AUPRO to 30 % false voxels", "area under the covered share of each lesion, against false voxels of the brain"),
    "aupro_05": ("AUPRO to 5 % false voxels", "the same, strict end only"),
    "spro_30": ("sPRO to 30 % false voxels", "as AUPRO, a lesion counts as covered once half of it is"),
    "spro_05": ("sPRO to 5 % false voxels", "the same, strict end only"),
    "slice_auroc": ("AUROC of slices", "is anything marked on the slice? by the mean of its 100 highest voxels"),
    "slice_ap": ("Average precision of slices", "the same question"),
    "study_auroc": ("AUROC of studies", "is anything marked in it? by its 99.5th percentile; needs studies without marks"),
    "study_ap": ("Average precision of studies", "the same question"),
}
DELIVERED: dict[str, tuple[str, str]] = {
    "dice_mean": ("Dice, mean of studies", "overlap of the delivered findings with what is marked: 0 none, 1 the same"),
    "dice_pooled": ("Dice, pooled", "all voxels of all studies with marks together"),
    "lesion_sens": ("Lesions found", "a tenth or more of the lesion's voxels lies in findings"),
    "lesion_sens_any": ("Lesions touched", "one voxel suffices"),
    "lesion_sens_iou": ("Lesions overlapped", "overlap over union with the findings that touch it above 0.1"),
    "fp_per_scan": ("False findings in each study", "no voxel within 2 mm of anything marked"),
    "fp_far_per_scan": ("Far false findings in each study", "no voxel within 5 mm of anything marked"),
    "lesion_f1": ("Lesion F1", "lesions found against lesions missed and false findings"),
    "hd95_mm": ("Hausdorff distance, 95 %, mm", "the larger of the two directed 95th percentiles"),
    "assd_mm": ("Mean surface distance, mm", "both directions pooled"),
    "nsd_2mm": ("Surface within 2 mm", "share of both surfaces; 1 is best"),
    "volume_error_abs_ml": ("Volume error, mL", "absolute, studies with marks"),
    "volume_bias_ml": ("Volume bias, mL", "found less marked; above 0 is too much"),
    "fp_volume_ml": ("False volume, mL", "volume of findings in studies without marks"),
    "lost_by_mask": ("Marked voxels outside the brain mask", "lost before the model looks"),
    "ssim": ("Similarity of the healthy estimate (SSIM)", "on unmarked brain: 1 leaves it as it is"),
    "psnr_db": ("Peak signal to noise of the healthy estimate, dB", "on unmarked brain, range twice the median"),
    "mae": ("Change by the healthy estimate", "on unmarked brain; 4 is the brain's median signal"),
    "l1_ratio": ("Change on lesions over change elsewhere", "above 1: the estimate departs more on lesions"),
    "uncertainty_error_auroc": ("Uncertainty ranks errors (AUROC)", "0.5 says nothing, 1 always higher where wrong"),
    "uncertainty_risk_area": ("Area under risk by coverage", "wrong voxels as doubtful ones are left out; lower is better"),
}


def figure(value: Estimate, digits: int = 3) -> str:
    """`0.715 (0.593 to 0.814)`; a dash where it cannot be had."""
    if not math.isfinite(value.value):
        return "–"
    told = f"{value.value:.{digits}f}"
    if math.isfinite(value.low) and math.isfinite(value.high):
        told += f" ({value.low:.{digits}f} to {value.high:.{digits}f})"
    return told

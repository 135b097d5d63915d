"""How well a localizer does on studies with marked lesions: measured per case, pooled as each metric says, with intervals.

Read in this order: `maps` (what is compared), `case` (one study measured), `curves` and `resampling` (all studies
together, patients drawn again), `cohort` (every figure of one set), `report` (the page a clinician reads).
"""

"""The queue as callers see it: moving studies, jobs and deliveries, claims, leases and the settle clock, under one name.

The parts are in `moves` (states and events), `clock` (quiet time), `jobs` and `deliveries`.
"""

from storage.clock import count_quiet, due_studies, tick_clock
from storage.deliveries import (
    DeliveryClaim,
    cancel_delivery,
    claim_delivery,
    commit_delivery,
    expire_delivery_leases,
    fail_commitment,
    finish_delivery,
    heartbeat_delivery,
    item_failed,
    item_stored,
    refuse_delivery,
    refuse_stored,
    reopen_delivery,
    resubmit_delivery,
    retry_delivery,
)
from storage.jobs import (
    JobClaim,
    cancel_open_deliveries,
    cancel_open_jobs,
    claim_job,
    expire_job_leases,
    finish_job,
    give_up_job,
    heartbeat_job,
    resubmit_job,
    retry_job,
)
from storage.moves import move_delivery, move_job, move_study

__all__ = [
    "DeliveryClaim",
    "JobClaim",
    "cancel_delivery",
    "cancel_open_deliveries",
    "cancel_open_jobs",
    "claim_delivery",
    "claim_job",
    "commit_delivery",
    "count_quiet",
    "due_studies",
    "expire_delivery_leases",
    "expire_job_leases",
    "fail_commitment",
    "finish_delivery",
    "finish_job",
    "give_up_job",
    "heartbeat_delivery",
    "heartbeat_job",
    "item_failed",
    "item_stored",
    "move_delivery",
    "move_job",
    "move_study",
    "refuse_delivery",
    "refuse_stored",
    "reopen_delivery",
    "resubmit_delivery",
    "resubmit_job",
    "retry_delivery",
    "retry_job",
    "tick_clock",
]

"""Rows and files: studies, jobs, results, deliveries and the events that tell their story. Knows no network, no torch."""

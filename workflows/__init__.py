"""Campaigns on FireWorks: spec, launch, run, resume, ledger, query, report, the command line."""

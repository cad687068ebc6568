"""kopf's part: it watches, resumes, serves the liveness probe, and wakes the reconciler. No decisions are made here."""

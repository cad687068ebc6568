"""kopf's part: it watches, resumes, and wakes the reconciler. No decisions are made here."""

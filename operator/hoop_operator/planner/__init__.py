"""From what is asked and what is there to the statements between the two; no I/O, no clock, no opinion on errors."""

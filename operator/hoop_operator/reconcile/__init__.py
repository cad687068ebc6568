"""The story of one run: what wakes a resource or a plan, what is done about it, and what is said of it."""

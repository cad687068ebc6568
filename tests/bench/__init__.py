"""What the operator costs: measured against a real API server and a real PostgreSQL, beside the least it could cost."""

"""A real Kubernetes control plane, PostgreSQL and the operator on one machine, without docker."""

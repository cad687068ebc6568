"""A Kubernetes operator that registers hoop.dev resources and runs role plans on PostgreSQL servers."""

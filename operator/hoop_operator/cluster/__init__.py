"""The Kubernetes side: Secrets, conditions, events, finalizers and watches over one thin client."""

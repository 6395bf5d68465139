"""`sluice demo`: the main job, from `kubectl apply` to failover and return, on a live table."""

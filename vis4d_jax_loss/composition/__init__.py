"""Many losses as one objective, with names, weights, schedules and metrics."""

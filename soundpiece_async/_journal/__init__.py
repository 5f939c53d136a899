"""The durable record of a bulk run: written before each step, read by the next run."""

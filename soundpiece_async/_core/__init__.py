"""Pure decisions and plain values: no await, clock, random numbers or environment."""

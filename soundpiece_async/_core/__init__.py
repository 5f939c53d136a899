"""Pure decisions and plain values: nothing here awaits, or reads a clock, random numbers or the environment."""

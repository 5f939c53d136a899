"""The ground floor: pure decisions and plain values. No await, no clock, no dice, no environment."""

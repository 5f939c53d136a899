"""The synthesizer: a prompt becomes a plan, notes and sound. `simulator.tone` is its interface."""

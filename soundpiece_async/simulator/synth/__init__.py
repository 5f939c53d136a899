"""The simulator's band: words to a plan, plan to notes, notes to sound. `simulator.tone` is its front door."""

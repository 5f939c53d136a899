"""Engines that run the parts of a run on many machines; each file needs the extra of its name."""

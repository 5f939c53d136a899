"""From an output to a file, an object in a store, or a stream: whole and verified, or not at all."""

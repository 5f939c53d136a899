"""Downloads of outputs to files, to objects in a store, or through a stream: whole and verified, or not at all."""

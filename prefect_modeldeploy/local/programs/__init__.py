"""Programs of the node that run under other interpreters; this folder is what they are started by."""

"""The faults a node must survive, F01 to F46: one test each, named after it."""

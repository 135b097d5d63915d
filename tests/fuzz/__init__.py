"""Objects, PDUs and headers that nobody would write: mutations of real and generated ones, guided by the code they reach."""

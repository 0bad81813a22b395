"""Does the gradient of one example depend on another example? A trial on real records, before the first release."""

"""Does one example's gradient depend on another example? Asked of real records before the first release."""

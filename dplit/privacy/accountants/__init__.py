"""From a composition of events to a certified ε: one file for each accountant, and the mathematics they share."""

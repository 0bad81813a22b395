"""Rules of the tape: one file for each family of torch operations. A new file adds its rules by being here."""

"""What operations do to the batch axis, one file for each family. A new file adds its rules by being here."""

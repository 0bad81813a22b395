"""What each family of operations does to owner maps, one file a family. A new file adds its rules by being here."""

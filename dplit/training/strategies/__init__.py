"""Lightning strategies that train privately, one file for each kind of device setup."""

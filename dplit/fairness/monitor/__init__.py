"""The callback that counts, releases, shows and keeps fairness figures on every validation epoch."""

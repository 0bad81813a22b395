"""Models that train privately as they are: LightningModules whose `training_step` returns one loss for each example."""

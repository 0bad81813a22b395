"""Which examples each number of a training step depends on, shown from the operations whatever the records are."""
